import { Dialog, FormControl, TextInput } from '@primer/react';
import { type FormEvent, useId, useRef } from 'react';
import styles from './ChargeDialog.module.css';
import { type Charge, chargeOf } from './charge';

interface Props {
  /** The repository, for people. */
  readonly name: string;
  readonly charge: Charge;
  readonly onChange: (charge: Charge) => void;
  readonly onClose: () => void;
}

/** Edits the account and QOS of a repository. The service checks them when the list is saved. */
export function ChargeDialog({ name, charge, onChange, onClose }: Props) {
  const form = useId();
  const account = useRef<HTMLInputElement>(null);
  const qos = useRef<HTMLInputElement>(null);

  function submit(event: FormEvent) {
    event.preventDefault();
    onChange(
      chargeOf({ account: account.current?.value ?? null, qos: qos.current?.value ?? null }),
    );
    onClose();
  }

  return (
    <Dialog
      title="Account and QOS"
      subtitle={`Where launches for ${name} are charged`}
      onClose={onClose}
      initialFocusRef={account}
      footerButtons={[
        { content: 'Cancel', onClick: onClose },
        { content: 'Apply', buttonType: 'primary', type: 'submit', form },
      ]}
    >
      <form id={form} onSubmit={submit} className={styles.form} noValidate>
        <Field ref={account} label="Account" value={charge.account} />
        <Field ref={qos} label="QOS" value={charge.qos} />
        <div className={styles.hint}>
          Workflow jobs whose labels name another account or QOS are refused. Leave a field empty to
          use the site’s default, or the one that labels name. Save the list to save this change.
        </div>
      </form>
    </Dialog>
  );
}

interface FieldProps {
  readonly ref: React.RefObject<HTMLInputElement | null>;
  readonly label: string;
  readonly value: string | undefined;
}

function Field({ ref, label, value }: FieldProps) {
  return (
    <FormControl>
      <FormControl.Label>{label}</FormControl.Label>
      <TextInput
        ref={ref}
        defaultValue={value ?? ''}
        monospace
        block
        autoCapitalize="off"
        autoComplete="off"
        spellCheck={false}
      />
    </FormControl>
  );
}
