import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { QmpTypeRenderer, type SchemaEntity, type UsedQmp } from './qmp-type-renderer.js';

const TYPES = new URL('../src/qmp/types.gen.ts', import.meta.url);
const USED = new URL('used-qmp.json', import.meta.url);

interface Reply {
  readonly QMP?: { readonly version: { readonly qemu: Version } };
  readonly return?: unknown;
  readonly id?: string;
}

interface Version {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
}

/**
 * Asks the QEMU on PATH for its schema. Speaks QMP by hand, because the client needs the types made
 * here.
 */
async function dumpSchema(): Promise<{ version: string; schema: readonly SchemaEntity[] }> {
  const qemu = spawn(
    'qemu-system-x86_64',
    [
      '-nodefaults',
      '-no-user-config',
      '-display',
      'none',
      '-machine',
      'none',
      '-S',
      '-qmp',
      'stdio',
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const send = (execute: string) =>
    qemu.stdin.write(`${JSON.stringify({ execute, id: execute })}\n`);
  try {
    let version = '';
    for await (const line of createInterface({ input: qemu.stdout })) {
      const reply = JSON.parse(line) as Reply;
      if (reply.QMP) {
        const { major, minor, micro } = reply.QMP.version.qemu;
        version = `${major}.${minor}.${micro}`;
        send('qmp_capabilities');
      } else if (reply.id === 'qmp_capabilities') {
        send('query-qmp-schema');
      } else if (reply.id === 'query-qmp-schema') {
        return { version, schema: reply.return as readonly SchemaEntity[] };
      }
    }
    throw new Error('QEMU ended before it gave its schema.');
  } finally {
    qemu.stdin.end(`${JSON.stringify({ execute: 'quit' })}\n`);
  }
}

const { version, schema } = await dumpSchema();
const used = JSON.parse(readFileSync(USED, 'utf8')) as UsedQmp;
const types = new QmpTypeRenderer(schema, used).render(version);
if (process.argv.includes('--check')) {
  // Another QEMU has another schema, which is no drift of ours: only the version in the header is
  // compared.
  const committed = readFileSync(TYPES, 'utf8');
  const same = committed === types;
  const comparable = committed.split('\n')[0] === types.split('\n')[0];
  process.stdout.write(`${same ? 'same' : comparable ? 'stale' : 'other-version'}\n`);
  process.exitCode = comparable && !same ? 1 : 0;
} else {
  writeFileSync(TYPES, types);
}
