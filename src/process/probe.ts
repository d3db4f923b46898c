import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { QmpClient } from '../qmp/client.js';
import { DetachedLauncher } from './detached-launcher.js';
import { QemuProcess } from './qemu-process.js';

/** Starts a stopped QEMU that exists only to be asked, asks it, and ends it. */
export async function withProbe<T>(
  binary: string,
  argv: readonly string[],
  options: { readonly signal?: AbortSignal },
  ask: (qmp: QmpClient) => Promise<T>,
): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'drover-probe-'));
  try {
    const request = { binary, uuid: randomUUID(), name: 'probe', directory, argv: [...argv, '-S'] };
    const qemu = await QemuProcess.start(new DetachedLauncher(), request, options);
    try {
      return await ask(qemu.qmp);
    } finally {
      // It holds nothing worth an orderly end.
      await qemu.kill();
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
