import { VisuallyHidden } from '@primer/react';
import type { ReactNode } from 'react';
import styles from './Status.module.css';

interface Props {
  readonly children: ReactNode;
  /** For screen readers only: the text is already visible elsewhere. */
  readonly hidden?: boolean;
}

/**
 * A live region: screen readers announce its changes, so it must be on the page before its text changes. Primer's own
 * live region adds a `<style>` element, which a strict Content-Security-Policy blocks. So the page uses no Primer
 * component that announces through it (`AriaStatus`, `loading` of buttons and inputs).
 */
export function Status({ children, hidden = false }: Props) {
  const region = (
    <div role="status" className={styles.status}>
      {children}
    </div>
  );
  return hidden ? <VisuallyHidden>{region}</VisuallyHidden> : region;
}
