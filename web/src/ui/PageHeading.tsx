import { Heading } from '@primer/react';
import { useEffect, useRef } from 'react';
import styles from './PageHeading.module.css';

/** Whether a page has been shown before: the first one does not take the focus. */
let navigated = false;

/** The heading of a page. It takes the focus after navigation, so that a screen reader announces the page. */
export function PageHeading({ children, title }: { children: React.ReactNode; title: string }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    if (navigated) {
      heading.current?.focus({ preventScroll: true });
    }
    navigated = true;
  }, []);
  return (
    <>
      <title>{`${title} · gha-slurm`}</title>
      <Heading as="h1" ref={heading} tabIndex={-1} className={styles.heading}>
        {children}
      </Heading>
    </>
  );
}
