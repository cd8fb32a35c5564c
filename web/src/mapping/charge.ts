/** What the launches of a repository are charged to, where the labels of a workflow job do not say. */
export interface Charge {
  readonly account?: string;
  readonly qos?: string;
}

/** A charge from what the API says or a person typed; blank is not set. */
export function chargeOf(given: { account?: string | null; qos?: string | null }): Charge {
  const account = given.account?.trim();
  const qos = given.qos?.trim();
  return { ...(account && { account }), ...(qos && { qos }) };
}

export function isSet({ account, qos }: Charge): boolean {
  return account !== undefined || qos !== undefined;
}

export function sameCharge(one: Charge, other: Charge): boolean {
  return one.account === other.account && one.qos === other.qos;
}
