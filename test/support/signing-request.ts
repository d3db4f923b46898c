import 'reflect-metadata';
import { type KeyObject, webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';

x509.cryptoProvider.set(webcrypto);

/** A certificate signing request that claims names of its own, in DER, and the key it is for. */
export async function makeSigningRequest(
  uris: readonly string[],
  algorithm: webcrypto.EcKeyGenParams | webcrypto.RsaHashedKeyGenParams = P256,
): Promise<{ readonly der: Buffer; readonly pem: string; readonly privateKey: KeyObject }> {
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, [
    'sign',
    'verify',
  ])) as webcrypto.CryptoKeyPair;
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: ['root'] }],
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.SubjectAlternativeNameExtension(uris.map((value) => ({ type: 'url', value }))),
      new x509.BasicConstraintsExtension(true, undefined, true),
    ],
  });
  const { KeyObject } = await import('node:crypto');
  return {
    der: Buffer.from(request.rawData),
    pem: request.toString('pem'),
    privateKey: KeyObject.from(keys.privateKey),
  };
}

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as webcrypto.EcKeyGenParams;
