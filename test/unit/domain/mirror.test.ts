import { expect, test } from 'vitest';
import type { LaunchDisk } from '../../../src/domain/launch-spec.js';
import { Mirror, type MirrorEvent, planMirrors } from '../../../src/domain/mirror.js';

const disk = (diskId: string, mirrored = true): LaunchDisk => ({
  diskId,
  sizeBytes: 1000,
  allocatedBytes: 0,
  mirrored,
  imageSha256: '',
});
const offer = (diskId: string) => ({ diskId, exportName: `nonce-of-${diskId}`, ticket: '' });
const server = (...diskIds: string[]) => ({
  transport: 'direct' as const,
  host: 'there',
  address: '127.0.0.1',
  port: 49_500,
  pskIdentity: 'm.1',
  psk: new Uint8Array(32),
  exports: diskIds.map(offer),
});

const event = (name: string, data: object) => ({ name, data, timestampUs: 0 }) as MirrorEvent;
const figures = { device: 'mirror-a', len: 1000, offset: 1000, speed: 0, type: 'mirror' };
const ready = event('BLOCK_JOB_READY', figures);
const completed = event('BLOCK_JOB_COMPLETED', figures);
const failed = event('BLOCK_JOB_COMPLETED', { ...figures, error: 'Input/output error' });
const cancelled = event('BLOCK_JOB_CANCELLED', figures);
const writeError = event('BLOCK_JOB_ERROR', {
  device: 'mirror-a',
  operation: 'write',
  action: 'report',
});
const status = (id: string, now: string) => event('JOB_STATUS_CHANGE', { id, status: now });
const concluded = status('mirror-a', 'concluded');

function mirror(...events: MirrorEvent[]): Mirror {
  const made = new Mirror(disk('a'), offer('a'));
  for (const each of events) made.take(each);
  return made;
}

test('a mirror that was told to settle and ends without error is settled', async () => {
  const one = mirror(ready);
  await one.ready;
  one.settle();
  one.take(completed);
  one.take(concluded);
  await one.settled;
  expect(one.progress).toEqual({
    diskId: 'a',
    totalBytes: 1000,
    transferredBytes: 1000,
    remainingBytes: 0,
    ready: true,
  });
});

test.each([
  ['ends with an error though every byte is copied', [failed], 'Input/output error'],
  ['is cancelled', [cancelled], 'it was cancelled'],
  ['ends without a verdict', [], 'it ended by itself'],
  ['had an error and then ends without one', [writeError, completed], 'it ended by itself'],
])('a settling mirror that %s has failed', async (_how, events, error) => {
  const one = mirror(ready);
  one.settle();
  for (const each of [...events, concluded]) one.take(each);
  await expect(one.settled).rejects.toMatchObject({
    reason: 'MIRROR_FAILED',
    facts: { disk: 'a', qemu_error: error },
  });
});

test('a mirror that ends by itself has failed, whether it was ready or not', async () => {
  const early = mirror(failed, concluded);
  await expect(early.ready).rejects.toMatchObject({ reason: 'MIRROR_FAILED' });
  const late = mirror(ready, completed, concluded);
  await late.ready;
  await expect(late.settled).rejects.toMatchObject({ reason: 'MIRROR_FAILED' });
});

test('an error tells the side: reading is the source, writing the destination', async () => {
  const read = event('BLOCK_JOB_ERROR', {
    device: 'mirror-a',
    operation: 'read',
    action: 'report',
  });
  await expect(mirror(read, failed, concluded).ready).rejects.toMatchObject({ side: 'source' });
  await expect(mirror(writeError, failed, concluded).ready).rejects.toMatchObject({
    side: 'destination',
    facts: { operation: 'write' },
  });
});

test('a mirror that an error has stopped has failed at once, though its job goes on', async () => {
  const one = mirror(ready, writeError);
  one.settle();
  one.stop('No space left on device');
  one.take(cancelled);
  one.take(concluded);
  await expect(one.settled).rejects.toMatchObject({
    reason: 'MIRROR_FAILED',
    side: 'destination',
    facts: { qemu_error: 'No space left on device' },
  });
});

test('what broke the stream is why the mirror failed', async () => {
  const one = mirror(ready);
  one.broke(new Error('The peer is gone.'));
  one.broke(new Error('And so is everything else.'));
  one.stop('Input/output error');
  expect(one.hasFailed).toBe(true);
  await expect(one.settled).rejects.toMatchObject({ cause: { message: 'The peer is gone.' } });
});

test('a mirror that an earlier life has left may be write-blocking, and one that is new is not', () => {
  const one = mirror();
  expect(one.writeBlocking).toBe(false);
  one.adopt();
  expect(one.writeBlocking).toBeUndefined();
  one.block();
  expect(one.writeBlocking).toBe(true);
});

test('events of other jobs, and other statuses, change nothing', async () => {
  const one = mirror(
    event('BLOCK_JOB_READY', { ...figures, device: 'mirror-b' }),
    event('BLOCK_JOB_COMPLETED', { ...figures, device: 'mirror-b', error: 'x' }),
    status('mirror-b', 'concluded'),
    status('mirror-a', 'standby'),
  );
  expect(one.isReady).toBe(false);
  one.take(ready);
  await one.ready;
});

test('whoever waits is told when the connection to QEMU is lost', async () => {
  const one = mirror();
  one.lose(new Error('gone'));
  await expect(one.ready).rejects.toThrow('gone');
  await expect(one.settled).rejects.toThrow('gone');
});

test('a mirror is planned for each disk that is mirrored, and for no other', () => {
  const disks = [disk('a'), disk('cd', false), disk('b')];
  expect(planMirrors(disks, server('b', 'a')).map(({ job }) => job)).toEqual([
    'mirror-a',
    'mirror-b',
  ]);
  expect(planMirrors([disk('cd', false)], server())).toEqual([]);
});

test.each([
  ['one is missing', ['a']],
  ['one is of an unknown disk', ['a', 'b', 'c']],
  ['one is of a disk that is not mirrored', ['a', 'b', 'cd']],
])('exports are refused when %s', (_what, exported) => {
  const disks = [disk('a'), disk('b'), disk('cd', false)];
  expect(() => planMirrors(disks, server(...exported))).toThrow(/exports/);
});
