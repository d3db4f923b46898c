/*
 * What the commands must know before they load anything: names of files and lives of certificates.
 */

/** The folder of the CA, where none is named. */
export const PKI_DIRECTORY = 'drover-pki';

/** The files of a CA. */
export const CA_FILES = { certificate: 'ca.crt', key: 'ca.key' } as const;

/** The files of a leaf, by the names that the CLI looks for and docs/agent.example.yaml uses. */
export const LEAF_FILES = { certificate: 'certificate.pem', key: 'key.pem', ca: 'ca.pem' } as const;

/** The trust domain, where none is named. Nobody owns a name below `internal`. */
export const TRUST_DOMAIN = 'drover.internal';

/**
 * The life of a CA in days. Every host holds a copy of its certificate, so it is replaced rarely;
 * the key lies offline, and whoever steals it would not wait for years.
 */
export const CA_DAYS = 3650;

/**
 * The life of a leaf in days. Nothing is revoked here: a certificate that was lost or stolen works
 * until it ends, so its life is the answer to how long that may be. A host's key is read by root
 * alone, and renewing it asks for somebody at the CA: a quarter leaves time for that. The key of a
 * caller lies in a home directory or among a scheduler's secrets, and is the more likely to leak.
 */
export const LEAF_DAYS = { host: 90, caller: 30 } as const;

/** The longest life that can be asked for, in days: twenty years. */
export const MOST_DAYS = 7300;
