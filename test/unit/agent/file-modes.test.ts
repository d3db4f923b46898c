import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkFileModes } from '../../../src/agent/file-modes.js';
import { memoryLog } from '../../support/fake-agent.js';

const NAMES = ['agent.yaml', 'certificate.pem', 'key.pem', 'ca.pem', 'fence'] as const;

let folder: string;
const path = (name: string) => join(folder, name);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drover-modes-'));
  for (const name of NAMES) writeFileSync(path(name), '', { mode: 0o640 });
});
afterEach(() => rmSync(folder, { recursive: true }));

async function check() {
  const log = memoryLog();
  const tls = { certificate: path('certificate.pem'), key: path('key.pem'), ca: path('ca.pem') };
  const fence = { command: path('fence'), arguments: [], limitMs: 1 };
  await checkFileModes(path('agent.yaml'), { tls, fence }, log);
  return log.lines;
}

describe('the files that decide who may do what', () => {
  it('may be read by a group, and be missing', async () => {
    rmSync(path('ca.pem'));
    expect(await check()).toEqual([]);
  });

  it.each(NAMES)('may not be written by everybody: %s', async (name) => {
    chmodSync(path(name), 0o642);
    await expect(check()).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringContaining(path(name)),
      hint: expect.stringContaining('chmod o-w'),
    });
  });

  it('are warned of where the key can be read by everybody', async () => {
    chmodSync(path('certificate.pem'), 0o644);
    expect(await check()).toEqual([]);
    chmodSync(path('key.pem'), 0o644);
    expect(await check()).toMatchObject([
      { level: 'warn', message: expect.stringContaining('chmod o-r') },
    ]);
  });
});
