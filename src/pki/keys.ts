import type { KeyObject } from 'node:crypto';

/** The least length of an RSA key, in bits. */
const RSA_BITS = 2048;

const CURVES: Readonly<Record<string, string>> = {
  prime256v1: 'P-256',
  secp384r1: 'P-384',
  secp521r1: 'P-521',
};

/** What kind a key is: `EC P-256`, `RSA 2048`, `Ed25519`. */
export function keyType({ asymmetricKeyType: type, asymmetricKeyDetails: details }: KeyObject) {
  if (type === 'ec') {
    const curve = details?.namedCurve ?? '';
    return `EC ${CURVES[curve] ?? curve}`;
  }
  if (type === 'rsa') return `RSA ${details?.modulusLength ?? 0}`;
  return type === 'ed25519' ? 'Ed25519' : String(type);
}

/** What a certificate has that should not be used: `an RSA key of 1024 bits, below 2048`. */
export function keyProblem(key: KeyObject): string | undefined {
  const bits = key.asymmetricKeyDetails?.modulusLength;
  if (key.asymmetricKeyType === 'rsa') {
    return (bits ?? 0) < RSA_BITS ? `an RSA key of ${bits} bits, below ${RSA_BITS}` : undefined;
  }
  const known = ['EC P-256', 'EC P-384', 'EC P-521', 'Ed25519'];
  return known.includes(keyType(key))
    ? undefined
    : `a key of the kind ${keyType(key)}, which is not known here`;
}
