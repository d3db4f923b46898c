import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Definition, Definitions } from '../../../src/domain/definitions.js';
import { parseDomainSpec } from '../../../src/spec/domain-spec.js';

const UUID = 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6';
const OTHER = '00000000-7dec-11d0-a765-00a0c91e6bf6';

const definition: Definition = {
  spec: parseDomainSpec({
    name: 'web1',
    uuid: UUID,
    memoryBytes: 64 * 1024 ** 2,
    accelerator: 'tcg',
    disks: [{ id: 'root', sizeBytes: 512 }],
    serial: { type: 'file' },
  }),
  cpu: { model: 'base', features: { lm: true }, properties: { vendor: 'x' } },
  pciSlots: { 'disk-root': 2 },
  kernelSha256: '',
  ownerHost: 'here',
  epoch: 2,
  generation: 3,
  arrivedBy: 'm0',
  process: { process: { pid: 7, startTime: 8, unit: 'u' }, uuid: UUID, directory: '/run/x' },
  taps: ['drv1'],
};

describe('definitions', () => {
  let state: string;
  let definitions: Definitions;
  const problems: unknown[] = [];
  const readAll = () => definitions.readAll((path, error) => problems.push(path, error));

  beforeEach(async () => {
    state = await mkdtemp(join(tmpdir(), 'drover-state-'));
    definitions = new Definitions(state);
    problems.length = 0;
  });
  afterEach(async () => {
    await rm(state, { recursive: true });
  });

  it('are read as they were written', async () => {
    expect(await readAll()).toEqual([]);
    const stopped = { ...definition, process: undefined, taps: [] };
    for (const written of [definition, stopped]) {
      await definitions.write(written);
      expect(await readAll()).toEqual([{ uuid: UUID, definition: written, incoming: undefined }]);
    }
    expect(problems).toEqual([]);
  });

  it('keep apart what is here and what is on its way in', async () => {
    const incoming = {
      migrationId: 'm',
      attempt: 1,
      epoch: 2,
      generation: 4,
      sourceHost: 'there',
      definition,
      pools: ['default'],
      roomBytes: { root: 512 },
      again: { attempt: 2, process: definition.process },
    };
    await definitions.write(definition);
    await definitions.writeIncoming(UUID, incoming);
    expect(await readAll()).toEqual([{ uuid: UUID, definition, incoming }]);
    await definitions.removeIncoming(UUID);
    expect(await readAll()).toEqual([{ uuid: UUID, definition, incoming: undefined }]);
    await definitions.writeIncoming(UUID, incoming);
    await definitions.remove(UUID);
    expect(await readAll()).toEqual([{ uuid: UUID, definition: undefined, incoming }]);
  });

  it('of an earlier version of the agent are read with the values that were meant', async () => {
    const { epoch: _epoch, arrivedBy: _arrivedBy, ...earlier } = definition;
    const handover = { migrationId: 'm', record: 'COMMITTED', peer: 'there' };
    await mkdir(definitions.folder(UUID), { recursive: true });
    const text = JSON.stringify({ version: 1, ...earlier, handover });
    await writeFile(join(definitions.folder(UUID), 'domain.json'), text);
    expect(await readAll()).toEqual([
      { uuid: UUID, definition: { ...earlier, epoch: 1, arrivedBy: '' }, incoming: undefined },
    ]);
  });

  it('leave no folder behind the last record, whatever else is in it', async () => {
    await definitions.write(definition);
    await writeFile(join(definitions.folder(UUID), 'serial.log'), 'hello');
    await definitions.removeIncoming(UUID);
    expect(await readdir(definitions.folder(UUID))).toContain('serial.log');
    await definitions.remove(UUID);
    await definitions.remove(UUID);
    expect(await readdir(join(state, 'domains'))).toEqual([]);
  });

  it.each([
    ['not JSON', '{'],
    ['another version', JSON.stringify({ version: 2, ...definition })],
    ['a wrong field', JSON.stringify({ version: 1, ...definition, generation: 'x' })],
    ['a wrong spec', JSON.stringify({ version: 1, ...definition, spec: { name: 1 } })],
    ['another domain', JSON.stringify({ version: 1, ...definition })],
  ])('with %s are reported and left alone', async (_, text) => {
    await definitions.write(definition);
    const folder = join(state, 'domains', OTHER);
    await mkdir(folder);
    await writeFile(join(folder, 'domain.json'), text);
    expect((await readAll()).map(({ uuid }) => uuid)).toEqual([UUID]);
    expect(problems).toEqual([folder, expect.any(Error)]);
    expect(await readdir(folder)).toEqual(['domain.json']);
  });

  it('are not taken for written when they are not', async () => {
    await writeFile(join(state, 'domains'), 'a file in the way');
    await expect(definitions.write(definition)).rejects.toMatchObject({ reason: 'DISK_IO_ERROR' });
  });
});
