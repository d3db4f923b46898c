import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { cpuArgument, fixCpu } from '../../src/domain/fixed-cpu.js';
import { findOnPath, inspectBinary } from '../../src/process/binary.js';
import { DetachedLauncher } from '../../src/process/detached-launcher.js';
import { withProbe } from '../../src/process/probe.js';
import { QemuImg } from '../../src/process/qemu-img.js';
import { QemuProcess } from '../../src/process/qemu-process.js';
import type { QmpClient } from '../../src/qmp/client.js';

const UUID = '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0001';
const MIB = 1024 * 1024;

let directory = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'drover-qemu-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

async function onPath(program: string): Promise<string> {
  const path = await findOnPath(program);
  if (path === undefined) throw new Error(`${program} is not on PATH`);
  return path;
}

describe('the QEMU on PATH', () => {
  test('can be used, and says which machines and features it has', async () => {
    const binary = await inspectBinary(await onPath('qemu-system-x86_64'));
    expect(binary.problems).toEqual([]);
    expect(binary.facts?.machines.find(({ alias }) => alias === 'q35')?.name).toMatch(/^pc-q35-/);
    expect(binary.facts?.features).toMatchObject({
      exitOnError: true,
      blockJobChange: true,
      setActive: true,
    });
    expect(binary.facts?.features.migrationCapabilities.has('pause-before-switchover')).toBe(true);
  });

  test('is asked once only', async () => {
    const path = await onPath('qemu-system-x86_64');
    expect(await inspectBinary(path)).toBe(await inspectBinary(path));
  });

  test('is not what a program is that is no QEMU', async () => {
    const binary = await inspectBinary('/bin/true');
    expect(binary.facts).toBeUndefined();
    expect(binary.problems).toMatchObject([{ code: 'QEMU_UNUSABLE' }]);
  });

  test('has the schema that the types were made from, if it is of the same version', async () => {
    const argv = ['--import', 'tsx', 'scripts/generate-qmp-types.ts', '--check'];
    const { stdout } = await promisify(execFile)(process.execPath, argv);
    expect(stdout.trim()).toMatch(/^(same|other-version)$/);
  });
});

/** Reads everything that a CPU shows, but for what says how it was asked for. */
async function readCpu(qmp: QmpClient): Promise<Record<string, unknown>> {
  const path = (await qmp.execute('query-cpus-fast'))[0]?.['qom-path'] ?? '';
  const properties = await qmp.execute('qom-list', { path });
  const asked = ['enforce', 'type', 'migratable', 'host-cache-info'];
  const names = properties
    .filter(({ type }) => !/^(link|child)</.test(type))
    .map(({ name }) => name)
    .filter((name) => !asked.includes(name));
  const values = names.map(
    async (property): Promise<[string, unknown]> => [
      property,
      await qmp.execute('qom-get', { path, property }).catch(() => undefined),
    ],
  );
  return Object.fromEntries(await Promise.all(values));
}

describe('an expanded CPU', () => {
  // EPYC-v1 has features that TCG lacks; without them it must start all the same.
  test.each(['max', 'qemu64', 'Nehalem-v1', 'EPYC-v1'])(
    'of model %s is the very CPU that the model gives',
    async (model) => {
      const binary = await inspectBinary(await onPath('qemu-system-x86_64'));
      const machine = ['-machine', 'q35,accel=tcg', '-m', '64'];
      const cpu = await binary.expandCpu({ model, machine: 'q35', accelerator: 'tcg' });
      const wanted = await withProbe(binary.path, [...machine, '-cpu', model], {}, readCpu);
      const argument = cpuArgument(fixCpu(cpu));
      const got = await withProbe(binary.path, [...machine, '-cpu', argument], {}, readCpu);
      if (model === 'EPYC-v1') {
        expect(cpu.missingFeatures).toContain('topoext');
        // The model says what its caches look like, which no property can; see expandCpu.
        for (const name of ['filtered-features', 'unavailable-features', 'legacy-cache']) {
          delete wanted[name];
          delete got[name];
        }
      } else expect(cpu.missingFeatures).toEqual([]);
      expect(got).toEqual(wanted);
    },
  );

  test('of an unknown model is refused', async () => {
    const binary = await inspectBinary(await onPath('qemu-system-x86_64'));
    await expect(
      binary.expandCpu({ model: 'abacus', machine: 'q35', accelerator: 'tcg' }),
    ).rejects.toMatchObject({ name: 'QemuStartError' });
  });
});

describe('a real QEMU process', () => {
  const start = async (argv: readonly string[]) =>
    QemuProcess.start(new DetachedLauncher(), {
      binary: await onPath('qemu-system-x86_64'),
      uuid: UUID,
      name: 'real, with a comma',
      directory: join(directory, 'd,omain'),
      argv: ['-machine', 'none', '-S', ...argv],
    });

  test('is started, let go of, found again and ended', async () => {
    const qemu = await start([]);
    const { pid } = qemu.record.process;
    expect(await qemu.qmp.execute('query-name')).toEqual({ name: 'real, with a comma' });
    await qemu.detach();
    const again = await QemuProcess.attach(new DetachedLauncher(), qemu.record);
    expect(again?.record.process.pid).toBe(pid);
    expect(await again?.quit()).toEqual({ code: undefined, signal: undefined });
    expect(await qemu.exited).toEqual({ code: 0, signal: undefined });
    expect(await QemuProcess.attach(new DetachedLauncher(), qemu.record)).toBeUndefined();
  });

  test('says what is wrong with its options', async () => {
    await expect(start(['-device', '{"driver":"no-such-device"}'])).rejects.toMatchObject({
      name: 'QemuStartError',
      exit: { code: 1 },
      output: expect.stringContaining('no-such-device'),
    });
  });
});

describe('qemu-img', () => {
  test('makes thin images of both formats and tells their sizes', async () => {
    const tool = new QemuImg(await onPath('qemu-img'));
    for (const format of ['raw', 'qcow2'] as const) {
      const path = join(directory, `a,b=c.${format}`);
      await tool.create(path, format, 8 * MIB);
      const info = await tool.info(path, format);
      expect(info).toMatchObject({
        virtualSizeBytes: 8 * MIB,
        hasBackingFile: false,
        hasDataFile: false,
      });
      expect(info.allocatedBytes).toBeLessThan(MIB);
      await tool.grow(path, format, 16 * MIB);
      expect((await tool.info(path, format)).virtualSizeBytes).toBe(16 * MIB);
    }
  });

  test('copies from one format to the other and stays thin', async () => {
    const tool = new QemuImg(await onPath('qemu-img'));
    const [raw, qcow2] = [join(directory, 'a'), join(directory, 'b')];
    await tool.create(raw, 'raw', 8 * MIB);
    await tool.convert(raw, 'raw', qcow2, 'qcow2');
    expect((await tool.info(qcow2, 'qcow2')).virtualSizeBytes).toBe(8 * MIB);
    expect(statSync(qcow2).size).toBeLessThan(MIB);
  });

  test('sees that an image needs another file, and takes raw bytes for nothing else', async () => {
    const tool = new QemuImg(await onPath('qemu-img'));
    const [base, overlay] = [join(directory, 'base'), join(directory, 'overlay')];
    await tool.create(base, 'raw', MIB);
    const argv = ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', base, overlay];
    await promisify(execFile)('qemu-img', argv);
    expect(await tool.info(overlay, 'qcow2')).toMatchObject({ hasBackingFile: true });
    expect(await tool.info(overlay, 'raw')).toMatchObject({ hasBackingFile: false });
    writeFileSync(overlay, 'no image');
    await expect(tool.info(overlay, 'qcow2')).rejects.toMatchObject({
      name: 'ProcessError',
      exit: { code: 1 },
    });
  });

  test('has little memory, and an image that is looked at little time', async () => {
    const script = join(directory, 'qemu-img');
    writeFileSync(script, '#!/bin/sh\necho "$(ulimit -v) $(ulimit -t) $(ulimit -c)" >&2; exit 1\n');
    chmodSync(script, 0o755);
    const tool = new QemuImg(script);
    await expect(tool.info('/a', 'raw')).rejects.toMatchObject({ output: '2097152 30 0' });
    const copied = tool.convert('/a', 'raw', '/b', 'raw');
    await expect(copied).rejects.toMatchObject({ output: '2097152 unlimited 0' });
  });

  test('takes a path for nothing but a path', async () => {
    const tool = new QemuImg(await onPath('qemu-img'));
    const json = 'json:{"driver":"file","filename":"/etc/passwd"}';
    await expect(tool.info(json, 'raw')).rejects.toThrow('must be absolute');
    await expect(tool.create('nbd:localhost:1', 'raw', MIB)).rejects.toThrow('must be absolute');
  });
});
