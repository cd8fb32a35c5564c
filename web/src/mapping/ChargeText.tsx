import styles from './ChargeText.module.css';
import { type Charge, isSet } from './charge';

/** The account and QOS, in words. */
export function ChargeText({ charge }: { readonly charge: Charge }) {
  if (!isSet(charge)) {
    return <div className={styles.charge}>Charged to the site’s default, or as labels say</div>;
  }
  const { account, qos } = charge;
  return (
    <div className={styles.charge}>
      Charged to{' '}
      {account !== undefined && (
        <>
          account <span className={styles.name}>{account}</span>
        </>
      )}
      {account !== undefined && qos !== undefined && ', '}
      {qos !== undefined && (
        <>
          QOS <span className={styles.name}>{qos}</span>
        </>
      )}
    </div>
  );
}
