import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  acceptBinding,
  type BindingOptions,
  checkBinding,
  describeQuarantine,
  readBinding,
} from '../../../src/process/state-binding.js';
import { compareBindings, type StateBinding } from '../../../src/util/binding.js';

let folder: string;
let root: string;
let state: string;
let options: BindingOptions;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drover-binding-'));
  root = join(folder, 'root');
  state = join(folder, 'state');
  mkdirSync(state);
  put('etc/machine-id', 'AAAA\n');
  put('proc/sys/kernel/random/boot_id', 'boot-1\n');
  put('sys/class/dmi/id/product_uuid', 'product-1\n');
  put('dev/disk/by-uuid/1111-2222', '');
  put('dev/disk/by-uuid/3333-4444', '');
  const { dev } = statSync(state, { bigint: true });
  options = {
    root,
    readDeviceNumber: async (path) => (path.endsWith('3333-4444') ? dev : 1n),
  };
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function put(name: string, text: string): void {
  mkdirSync(dirname(join(root, name)), { recursive: true });
  writeFileSync(join(root, name), text);
}

const check = async () => (await checkBinding(state, options)).mismatches;
const written = () =>
  (JSON.parse(readFileSync(join(state, 'binding.json'), 'utf8')) as { binding: StateBinding })
    .binding;

describe('the binding of a state', () => {
  it('tells the machine, the boot, the place, and the file system', async () => {
    const { dev, ino } = statSync(state, { bigint: true });
    expect(await readBinding(state, options)).toEqual({
      machineId: 'aaaa',
      bootId: 'boot-1',
      device: String(dev),
      inode: String(ino),
      productUuid: 'product-1',
      fileSystemUuid: '3333-4444',
    });
  });

  it('leaves out what the host does not have', async () => {
    const { dev, ino } = statSync(state, { bigint: true });
    expect(await readBinding(state, { root: join(folder, 'nothing') })).toEqual({
      device: String(dev),
      inode: String(ino),
    });
  });

  it('can be read on this machine', async () => {
    const binding = await readBinding(state);
    expect(binding.bootId).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('is written at the first start and holds at each later one', async () => {
    expect(await check()).toEqual([]);
    const text = readFileSync(join(state, 'binding.json'), 'utf8');
    expect(written()).toEqual(await readBinding(state, options));
    expect(statSync(join(state, 'binding.json')).mode & 0o777).toBe(0o600);
    expect(await check()).toEqual([]);
    expect(readFileSync(join(state, 'binding.json'), 'utf8')).toBe(text);
  });

  it.each([
    ['etc/machine-id', 'the machine id was aaaa and is other'],
    ['sys/class/dmi/id/product_uuid', 'the product UUID of the machine was product-1 and is other'],
  ])('is broken where %s is another one', async (name, mismatch) => {
    await check();
    put(name, 'other\n');
    expect(await check()).toEqual([mismatch]);
    // And stays so: what was written then is not touched.
    expect(await check()).toEqual([mismatch]);
    put(name, name.startsWith('etc') ? 'aaaa' : 'product-1');
    expect(await check()).toEqual([]);
  });

  it('is broken where the state was copied', async () => {
    await check();
    cpSync(state, join(folder, 'copy'), { recursive: true });
    state = join(folder, 'copy');
    expect(await check()).toEqual([
      expect.stringMatching(/^the inode of the state directory was \d+ and is \d+$/),
    ]);
  });

  it('holds where the state directory was only renamed', async () => {
    await check();
    renameSync(state, join(folder, 'renamed'));
    state = join(folder, 'renamed');
    expect(await check()).toEqual([]);
  });

  it('is broken where the file system is another one', async () => {
    await check();
    rmSync(join(root, 'dev/disk/by-uuid/3333-4444'));
    expect(await check()).toEqual([
      'the UUID of the file system was 3333-4444 and cannot be read now',
    ]);
  });

  it('tells everything that differs at once, and what to think of it', async () => {
    await check();
    put('etc/machine-id', 'other');
    put('sys/class/dmi/id/product_uuid', 'other');
    const mismatches = await check();
    expect(mismatches).toHaveLength(2);
    const text = describeQuarantine(state, mismatches);
    for (const part of [...mismatches, state, 'no guest starts']) expect(text).toContain(part);
  });

  it('does not compare what was not known then, and compares it once it was seen', async () => {
    rmSync(join(root, 'sys'), { recursive: true });
    await check();
    put('sys/class/dmi/id/product_uuid', 'product-1');
    expect(await check()).toEqual([]);
    put('sys/class/dmi/id/product_uuid', 'product-2');
    expect(await check()).toHaveLength(1);
  });

  it('is broken where it cannot be understood', async () => {
    for (const text of ['', '{}', '{"version":2,"binding":{}}', '{"version":1,"binding":{}}']) {
      writeFileSync(join(state, 'binding.json'), text);
      expect(await check(), text).toEqual([expect.stringContaining('cannot be understood')]);
    }
  });

  it('is as a person says once that has accepted it', async () => {
    await check();
    put('etc/machine-id', 'other');
    expect(await check()).toHaveLength(1);
    await acceptBinding(state, options);
    expect(await check()).toEqual([]);
    expect(written().machineId).toBe('other');
  });
});

describe('the number of a device', () => {
  const then: StateBinding = { bootId: 'b1', device: String(0xfd00n), inode: '1' };

  it('counts within one boot', () => {
    expect(compareBindings(then, { ...then, device: '5' })).toHaveLength(1);
    const known = { ...then, fileSystemUuid: 'f' };
    expect(compareBindings(known, { ...known, device: '5' })).toHaveLength(1);
  });

  it('counts over a boot only where there is no UUID of the file system', () => {
    expect(compareBindings(then, { ...then, bootId: 'b2', device: '5' })).toHaveLength(1);
    const known = { ...then, fileSystemUuid: 'f' };
    expect(compareBindings(known, { ...known, bootId: 'b2', device: '5' })).toEqual([]);
  });

  it('says nothing over a boot where no block device is below', () => {
    const anonymous = { ...then, device: '45' };
    expect(compareBindings(anonymous, { ...anonymous, bootId: 'b2', device: '46' })).toEqual([]);
    expect(compareBindings(anonymous, { ...anonymous, device: '46' })).toHaveLength(1);
  });

  it('is remembered anew at each start that finds nothing else changed', async () => {
    await check();
    put('proc/sys/kernel/random/boot_id', 'boot-2');
    expect(await check()).toEqual([]);
    expect(written().bootId).toBe('boot-2');
  });
});
