import { getDiffieHellman, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { readForeign } from '../util/foreign-files.js';
import { ReasonedError } from '../util/reasoned-error.js';

/**
 * The TLS settings of both ends of a keyed connection, in GnuTLS' words: TLS 1.3 only, and only key
 * exchanges that need the shared key. AES comes first: such a key is bound to SHA-256, of the
 * ciphers with it GnuTLS prefers ChaCha20, and with that QEMU's main loop took so long to encrypt a
 * mirror that a guest which wrote without a pause got a quarter of its writes done instead of two
 * thirds (docs/performance.md).
 */
export const PSK_PRIORITY =
  'NORMAL:-CIPHER-ALL:+AES-128-GCM:+CHACHA20-POLY1305:-VERS-ALL:+VERS-TLS1.3:+ECDHE-PSK:+DHE-PSK';

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

const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** What a folder with a key is called unless something else is said: the disks' one. */
const PSK_FOLDER = 'psk';
const KEYS = 'keys.psk';
const PARAMETERS = 'dh-params.pem';
const KEYS_LIMIT_BYTES = 1024;

/** Makes a new key from the system's random numbers. */
export function makePsk(identity: string): Psk {
  return { identity, key: randomBytes(PSK_BYTES) };
}

/**
 * A folder with a `keys.psk` as QEMU's `tls-creds-psk` reads it. Only the owner of the folder that
 * it is in can look inside.
 */
export class PskFolder implements AsyncDisposable {
  /** What QEMU is told as `dir`. */
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Writes the key into a new folder of this name in `directory`; what an earlier try left there
   * goes first.
   *
   * @throws ReasonedError `REQUEST_INVALID` for an identity or a key that cannot be one: both may
   * come from the peer.
   */
  static async write(directory: string, psk: Psk, name = PSK_FOLDER): Promise<PskFolder> {
    assertPsk(psk);
    const path = join(directory, name);
    await removeFolder(path);
    await mkdir(path, { mode: 0o700 });
    const owner = await lstat(directory);
    await using folder = await open(path, FOLDER);
    // Whoever may write to `directory` could have put something else in its place already.
    if ((await folder.stat()).uid !== process.getuid?.()) throw new Error(`${path} is not ours.`);
    const key = `${psk.identity}:${Buffer.from(psk.key).toString('hex')}\n`;
    await writeNew(inside(folder, KEYS), key, owner);
    await writeNew(inside(folder, PARAMETERS), dhParameters(), owner);
    await folder.chown(owner.uid, owner.gid);
    return new PskFolder(path);
  }

  /** Finds the folder again that an earlier life of the agent wrote, with its key. */
  static async find(
    directory: string,
    name = PSK_FOLDER,
  ): Promise<{ readonly folder: PskFolder; readonly psk: Psk } | undefined> {
    const path = join(directory, name);
    const text = await readForeign(join(path, KEYS), KEYS_LIMIT_BYTES).catch(() => '');
    const [identity = '', key = ''] = text.trim().split(':');
    const psk = { identity, key: Buffer.from(key, 'hex') };
    if (!IDENTITY.test(identity) || psk.key.length !== PSK_BYTES) return undefined;
    return { folder: new PskFolder(path), psk };
  }

  /** Removes the key. Repeating it is harmless. */
  async remove(): Promise<void> {
    await removeFolder(this.path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }
}

async function writeNew(
  path: string,
  text: string,
  owner: { readonly uid: number; readonly gid: number },
): Promise<void> {
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  await using file = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  await file.writeFile(text);
  await file.chown(owner.uid, owner.gid);
}

/** The folder is QEMU's, so that it is not removed with whatever else may be in it by now. */
async function removeFolder(path: string): Promise<void> {
  try {
    await using folder = await open(path, FOLDER);
    for (const name of [KEYS, PARAMETERS]) await unlink(inside(folder, name)).catch(unlessMissing);
    await rmdir(path);
  } catch (error) {
    unlessMissing(error);
  }
}

/** A file of the very folder that was opened, wherever its path leads by now. */
function inside(folder: FileHandle, name: string): string {
  return `/proc/self/fd/${folder.fd}/${name}`;
}

function unlessMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
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
