import { statSync } from 'node:fs';
import type { Log } from '../util/log.js';
import { RpcError } from './errors.js';
import { formatIdentity } from './identity.js';
import {
  type CurrentTls,
  lifeOf,
  readTlsFiles,
  type TlsFiles,
  type TlsMaterial,
} from './tls-material.js';

const POLL_MS = 5_000;
const DAY_MS = 24 * 60 * 60 * 1000;
/** What is left of a certificate's life when the first warning is due. */
const LAST_PART = 1 / 5;

/** How the files are watched. */
export interface KeeperOptions {
  readonly log: Log;
  /** How often the files are looked at; the default is 5 s. */
  readonly pollMs?: number;
  /** Wall time, for judging validity. */
  readonly now?: () => Date;
}

/**
 * Keeps what stands in the certificate files as new connections shall use it. The files are looked
 * at from time to time, by what the paths lead to, so that it does not matter whether somebody
 * writes, renames or swaps a link. A set that cannot be used, because it is half written, has
 * expired or names somebody else, is not taken: the one before stays.
 */
export class TlsKeeper implements CurrentTls, Disposable {
  readonly #files: TlsFiles;
  readonly #log: Log;
  readonly #now: () => Date;
  readonly #listeners = new Set<(material: TlsMaterial) => void>();
  readonly #timer: NodeJS.Timeout;
  #seen: string;
  #material: TlsMaterial;
  #warned: { readonly stage: 'soon' | 'over'; readonly atMs: number } | undefined;

  /** @throws RpcError as `readTlsFiles` */
  constructor(files: TlsFiles, { log, pollMs = POLL_MS, now = () => new Date() }: KeeperOptions) {
    this.#files = files;
    this.#log = log;
    this.#now = now;
    // Before they are read: a change meanwhile is then seen as one.
    this.#seen = signature(files);
    this.#material = readTlsFiles(files);
    this.#warnOfEnd();
    this.#timer = setInterval(() => this.#look(), pollMs).unref();
  }

  get material(): TlsMaterial {
    return this.#material;
  }

  onChange(listener: (material: TlsMaterial) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Reads the files now, changed or not. What comes of it is in the log; never throws. */
  reload(): void {
    this.#seen = signature(this.#files);
    if (!this.#read()) this.#log.info(this.#fields(), 'the certificate files are the same');
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#listeners.clear();
  }

  #look(): void {
    const seen = signature(this.#files);
    if (seen !== this.#seen) {
      this.#seen = seen;
      this.#read();
    }
    this.#warnOfEnd();
  }

  // A field that is called key would be hidden in the log.
  #fields() {
    const { certificate, key: keyFile, ca } = this.#files;
    return { certificate, key_file: keyFile, ca };
  }

  /** False where nothing has changed. */
  #read(): boolean {
    const before = this.#material;
    try {
      const material = readTlsFiles(this.#files);
      if (isSame(material, before)) return false;
      this.#assertUsable(material);
      this.#material = material;
      this.#warned = undefined;
      for (const listener of this.#listeners) listener(material);
      const { notAfter } = lifeOf(material);
      const fields = { ...this.#fields(), not_after: notAfter.toISOString() };
      this.#log.info(fields, 'new certificate files are in use for new connections');
      this.#warnOfEnd();
    } catch (error) {
      // Files that cannot be used are nothing to look for in the program.
      const why = error instanceof RpcError ? { problem: error.message } : { err: error };
      const fields = { ...this.#fields(), ...why };
      this.#log.error(fields, 'the new certificate files are not used; the ones before stay');
    }
    return true;
  }

  /** @throws RpcError `CONFIG_INVALID` */
  #assertUsable(material: TlsMaterial): void {
    const [is, was] = [material, this.#material].map(({ identity }) => formatIdentity(identity));
    const { certificate } = this.#files;
    if (is !== was) {
      throw new RpcError('CONFIG_INVALID', `${certificate} names ${is}, but this is ${was}.`);
    }
    const { notBefore, notAfter } = lifeOf(material);
    const now = this.#now();
    const problem = now > notAfter ? 'has expired' : now < notBefore ? 'is not valid yet' : '';
    if (problem === '') return;
    const life = `${notBefore.toISOString()} to ${notAfter.toISOString()}`;
    throw new RpcError('CONFIG_INVALID', `${certificate} ${problem}: it is valid from ${life}.`);
  }

  #warnOfEnd(): void {
    const { notBefore, notAfter } = lifeOf(this.#material);
    const nowMs = this.#now().getTime();
    const leftMs = notAfter.getTime() - nowMs;
    if (leftMs > (notAfter.getTime() - notBefore.getTime()) * LAST_PART) return;
    const stage = leftMs < 0 ? 'over' : 'soon';
    if (this.#warned?.stage === stage && nowMs - this.#warned.atMs < DAY_MS) return;
    this.#warned = { stage, atMs: nowMs };
    const message =
      stage === 'over'
        ? 'the certificate has expired: other agents refuse new connections'
        : 'the certificate expires soon: renew it';
    const { certificate } = this.#files;
    this.#log.warn({ certificate, not_after: notAfter.toISOString() }, message);
  }
}

function isSame(one: TlsMaterial, other: TlsMaterial): boolean {
  return (['certificate', 'key', 'ca'] as const).every((what) => one[what].equals(other[what]));
}

/** Changes whenever one of the files does, or the place that its path leads to. */
function signature({ certificate, key, ca }: TlsFiles): string {
  return [certificate, key, ca].map(signatureOf).join(' ');
}

function signatureOf(path: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join(':');
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}
