import { getDiffieHellman, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ReasonedError } from '../util/reasoned-error.js';

/**
 * The TLS settings of both ends of a keyed connection, in GnuTLS' words: TLS 1.3 only, and only key
 * exchanges that need the shared key.
 */
export const PSK_PRIORITY = 'NORMAL:-VERS-ALL:+VERS-TLS1.3:+ECDHE-PSK:+DHE-PSK';

/** Length of a key in bytes. */
export const PSK_BYTES = 32;

/**
 * A key that two QEMUs share for one migration, and the name by which the client says which key it
 * uses.
 */
export interface Psk {
  /** Letters, digits, `.`, `_` and `-`, at most 64. */
  readonly identity: string;
  readonly key: Uint8Array;
}

/** The file format gives `:`, `#` and line ends a meaning, so an identity has none of them. */
const IDENTITY = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Makes a new key from the system's random numbers. */
export function makePsk(identity: string): Psk {
  return { identity, key: randomBytes(PSK_BYTES) };
}

/**
 * A folder with a `keys.psk` as QEMU's `tls-creds-psk` reads it; only this user can look inside.
 */
export class PskFolder implements AsyncDisposable {
  /** What QEMU is told as `dir`. */
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Writes the key into the folder `psk` of `directory`; what an earlier try left there goes first.
   *
   * @throws ReasonedError `REQUEST_INVALID` for an identity or a key that cannot be one: both may
   * come from the peer.
   */
  static async write(directory: string, psk: Psk): Promise<PskFolder> {
    assertPsk(psk);
    const path = join(directory, 'psk');
    await rm(path, { recursive: true, force: true });
    await mkdir(path, { mode: 0o700 });
    await writeNew(
      join(path, 'keys.psk'),
      `${psk.identity}:${Buffer.from(psk.key).toString('hex')}\n`,
    );
    await writeNew(join(path, 'dh-params.pem'), dhParameters());
    return new PskFolder(path);
  }

  /** Finds the folder again that an earlier life of the agent wrote, with its key. */
  static async find(
    directory: string,
  ): Promise<{ readonly folder: PskFolder; readonly psk: Psk } | undefined> {
    const path = join(directory, 'psk');
    const text = await readFile(join(path, 'keys.psk'), 'utf8').catch(() => '');
    const [identity = '', key = ''] = text.trim().split(':');
    const psk = { identity, key: Buffer.from(key, 'hex') };
    if (!IDENTITY.test(identity) || psk.key.length !== PSK_BYTES) return undefined;
    return { folder: new PskFolder(path), psk };
  }

  /** Removes the key. Repeating it is harmless. */
  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }
}

async function writeNew(path: string, text: string): Promise<void> {
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  await using file = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  await file.writeFile(text);
}

/**
 * The 2048-bit group of RFC 3526 in PKCS#3. TLS 1.3 has groups of its own and never uses it, but
 * QEMU's server end looks for one: where it finds none it makes one up, and that takes up to a
 * second of computing with its main loop held.
 */
function dhParameters(): string {
  const group = getDiffieHellman('modp14');
  const body = Buffer.concat([derInteger(group.getPrime()), derInteger(group.getGenerator())]);
  const base64 = der(0x30, body)
    .toString('base64')
    .replace(/.{1,64}/g, '$&\n');
  return `-----BEGIN DH PARAMETERS-----\n${base64}-----END DH PARAMETERS-----\n`;
}

/** A positive number; its highest bit would be taken for a sign. */
function derInteger(bytes: Buffer): Buffer {
  const isNegative = ((bytes[0] ?? 0) & 0x80) !== 0;
  return der(0x02, isNegative ? Buffer.concat([Buffer.alloc(1), bytes]) : bytes);
}

function der(tag: number, body: Buffer): Buffer {
  const { length } = body;
  const size = length < 128 ? [length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), body]);
}

function assertPsk(psk: Psk): void {
  if (!IDENTITY.test(psk.identity)) {
    throw new ReasonedError(
      'REQUEST_INVALID',
      'The identity of the pre-shared key may have 64 letters, digits, dots, dashes and underscores.',
    );
  }
  if (psk.key.length !== PSK_BYTES) {
    throw new ReasonedError(
      'REQUEST_INVALID',
      `The pre-shared key has ${psk.key.length} bytes, not ${PSK_BYTES}.`,
    );
  }
}
