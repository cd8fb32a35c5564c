import { VisuallyHidden } from '@primer/react';
import type { ReactNode } from 'react';
import styles from './Status.module.css';

interface Props {
  readonly children: ReactNode;
  /** Only for those who listen; it is to be seen elsewhere already. */
  readonly hidden?: boolean;
}

/**
 * What is said aloud when it changes; it has to be on the page before. Primer's own live region brings a `<style>`
 * of its own, which a strict Content-Security-Policy stops: so none of what announces through it is used here
 * (`AriaStatus`, `loading` of buttons and inputs).
 */
export function Status({ children, hidden = false }: Props) {
  const region = (
    <div role="status" className={styles.status}>
      {children}
    </div>
  );
  return hidden ? <VisuallyHidden>{region}</VisuallyHidden> : region;
}
