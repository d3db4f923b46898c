/** What checks have to say of a certificate; each adds its sentences. */
export interface Findings {
  /** What keeps the certificate from being used. */
  readonly problems: string[];
  /** What should be seen to. */
  readonly notes: string[];
}
