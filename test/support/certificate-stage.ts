import { copyFile, mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, vi } from 'vitest';
import { connectAgent } from '../../src/rpc/client.js';
import { type KeeperOptions, TlsKeeper } from '../../src/rpc/tls-keeper.js';
import type { TlsFiles } from '../../src/rpc/tls-material.js';
import {
  type CertificateFiles,
  makeTestCertificates,
  type TestCertificates,
} from './certificates.js';
import { type FakeAgent, memoryLog } from './fake-agent.js';

/** What the log says when new files are taken, and when they are not. */
export const TAKEN = /new certificate files are in use/;
export const KEPT = /the ones before stay/;

/** Copies files to where an agent reads them, each at once as `mv` does. */
export async function place(from: CertificateFiles, folder: string): Promise<TlsFiles> {
  await mkdir(folder, { recursive: true });
  const paths = { certificate: 'tls.crt', key: 'tls.key', ca: 'ca.crt' } as const;
  for (const [what, name] of Object.entries(paths)) {
    const path = join(folder, name);
    await copyFile(from[what as keyof TlsFiles], `${path}.new`);
    await rename(`${path}.new`, path);
  }
  return {
    certificate: join(folder, paths.certificate),
    key: join(folder, paths.key),
    ca: join(folder, paths.ca),
  };
}

/** The files of host-b, of a CA that another one is going to follow, and those who keep them. */
export class CertificateStage implements AsyncDisposable {
  readonly log = memoryLog();
  readonly old: TestCertificates;
  readonly next: TestCertificates;
  /** Where the agent reads its files. */
  files: TlsFiles;
  /** How often the files have been looked at, where `clock` is the clock. */
  looks = 0;
  readonly #keepers: TlsKeeper[] = [];

  private constructor(old: TestCertificates, next: TestCertificates, files: TlsFiles) {
    this.old = old;
    this.next = next;
    this.files = files;
  }

  static async open(): Promise<CertificateStage> {
    const [old, next] = await Promise.all([makeTestCertificates(), makeTestCertificates()]);
    const files = await place(await old.host('host-b'), join(old.directory, 'in-use'));
    return new CertificateStage(old, next, files);
  }

  /** Puts other files where the agent reads them. */
  async swap(from: CertificateFiles): Promise<void> {
    await place(from, join(this.old.directory, 'in-use'));
  }

  keep(options: Partial<KeeperOptions> = {}): TlsKeeper {
    const keeper = new TlsKeeper(this.files, { log: this.log, pollMs: 10, ...options });
    this.#keepers.push(keeper);
    return keeper;
  }

  /** A clock that is read at every look. */
  clock(now: () => number = Date.now): () => Date {
    return () => {
      this.looks += 1;
      return new Date(now());
    };
  }

  /** So many looks at the files that a line for each of them would be seen. */
  async manyLooks(): Promise<void> {
    const before = this.looks;
    await vi.waitFor(() => expect(this.looks).toBeGreaterThan(before + 5), 5_000);
  }

  lines(pattern: RegExp) {
    return this.log.lines.filter(({ message }) => pattern.test(message));
  }

  async logged(pattern: RegExp, times = 1): Promise<void> {
    await vi.waitFor(() => expect(this.lines(pattern)).toHaveLength(times), 5_000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const keeper of this.#keepers) keeper[Symbol.dispose]();
    await this.old[Symbol.asyncDispose]();
    await this.next[Symbol.asyncDispose]();
  }
}

/** Whether somebody may list the migrations of an agent: `let in`, or the reason why not. */
export async function lists(agent: FakeAgent, tls: CertificateFiles): Promise<string> {
  using client = connectAgent({ address: agent.address, tls });
  return await client.migrations.listMigrations({}).then(
    () => 'let in',
    (error) => error.reason,
  );
}
