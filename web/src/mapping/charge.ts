/** The account and QOS of a repository's launches, unless the labels of a workflow job name others. */
export interface Charge {
  readonly account?: string;
  readonly qos?: string;
}

/** Makes a charge of the API's or typed values. Blank means not set. */
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
