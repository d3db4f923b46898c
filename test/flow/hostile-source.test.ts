import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import type { PeerHeader } from '../../src/migration/peer.js';
import { patiently } from '../support/fake-agent.js';
import { memoryMib, Tally, whileAnswering } from '../support/hostile.js';
import { LyingSource } from '../support/lying-source.js';

const tally = new Tally('a source that lies');
afterAll(() => tally.finish());

let stage: LyingSource;
beforeEach(async () => {
  stage = await LyingSource.start();
});
afterEach(() => stage?.[Symbol.asyncDispose]());

describe('a source that prepares what never comes', () => {
  it('gets no more than its share, and leaves the others theirs', async () => {
    const before = memoryMib();
    const result = await whileAnswering(stage.hosts.host('beta').client, async () => {
      const reasons: string[] = [];
      const ready: PeerHeader[] = [];
      const one = async () => {
        const { header, launchSpec } = stage.fiction();
        const failed = await stage.calls.prepare(header, launchSpec, patiently()).then(
          ({ journalId }) => void ready.push({ ...header, destinationJournalId: journalId }),
          ({ reason }) => reason,
        );
        if (failed) reasons.push(failed);
      };
      for (let i = 0; i < 50; i++) await Promise.all(Array.from({ length: 20 }, one));
      return { reasons, ready };
    });
    const { reasons, ready } = result;
    const { incomingPerPeer } = stage.hosts.host('beta').config.limits;
    expect(ready.length).toBe(incomingPerPeer);
    expect(new Set(reasons)).toEqual(new Set(['LIMIT_REACHED']));
    for (const reason of reasons) tally.count('a prepare beyond the limit', reason);
    expect(memoryMib() - before).toBeLessThan(100);
    await stage.honestMigration();
    await Promise.all(ready.map((header) => stage.calls.abort(header, patiently())));
    await stage.expectUnharmed();
  });

  it('gets nothing for a launch spec of what does not fit or does not fit together', async () => {
    const disk = stage.sound.spec.disks[0];
    const launched = stage.sound.disks[0];
    if (!disk || !launched) throw new Error('The spec has no disks.');
    const named = (i: number) => ({ id: `d${i}`, diskId: `d${i}` });
    const thousands = Array.from({ length: 10_000 }, (_, i) => named(i));
    const specs: Record<string, (spec: LaunchSpec) => LaunchSpec> = {
      'ten thousand disks': (from) => ({
        ...from,
        spec: { ...from.spec, disks: thousands.map(({ id }) => ({ ...disk, id })) },
        disks: thousands.map(({ diskId }) => ({ ...launched, diskId })),
      }),
      'as many that only the launch has': (from) => ({
        ...from,
        disks: thousands.map(({ diskId }) => ({ ...launched, diskId })),
      }),
      'a hundred TiB': (from) => sized(from, 100 * 1024 ** 4),
      'more than is there': (from) => sized(from, 60 * 1024 ** 4),
      'a disk of nothing': (from) => sized(from, 0),
      'more RAM than there is': (from) => ({
        ...from,
        spec: { ...from.spec, memoryBytes: 63 * 1024 ** 3 },
      }),
      'disks that are not those of the spec': (from) => ({
        ...from,
        disks: from.disks.map((one) => ({ ...one, diskId: `x${one.diskId}` })),
      }),
      'disks in another order': (from) => ({ ...from, disks: [...from.disks].reverse() }),
      'disks of another size': (from) => ({
        ...from,
        disks: from.disks.map((one) => ({ ...one, sizeBytes: one.sizeBytes + 512 })),
      }),
      'a disk that is said to be here already': (from) => ({
        ...from,
        disks: from.disks.map((one) => ({ ...one, mirrored: false })),
      }),
      'the same disk twice': (from) => ({
        ...from,
        spec: { ...from.spec, disks: [disk, disk] },
        disks: [launched, launched],
      }),
      'another domain than the header': (from) => ({
        ...from,
        spec: { ...from.spec, uuid: crypto.randomUUID() },
      }),
      'a pool that is not here': (from) => withDisk(from, { pool: 'elsewhere' }),
      'a pool that is a path': (from) => withDisk(from, { pool: '../../etc' }),
      'an image of the catalogue': (from) => withDisk(from, { image: 'a.raw', readOnly: true }),
      'an image that is a path': (from) => withDisk(from, { image: '../../../etc/passwd' }),
      'a machine that nobody has': (from) => ({
        ...from,
        spec: { ...from.spec, machine: 'q35,accel=tcg' },
      }),
    };
    for (const [what, change] of Object.entries(specs)) {
      const { header, launchSpec } = stage.fiction({ migrationId: crypto.randomUUID() });
      const reason = await tally.refused(what, () =>
        stage.calls.prepare(header, change(launchSpec), patiently()),
      );
      expect(reason, what).not.toMatch(/^(ACCEPTED|INTERNAL)$/);
    }
    await stage.expectUnharmed();
  });

  it('gets neither the name nor the UUID of a domain that is here', async () => {
    await stage.hosts.run('beta', 'resident');
    const { domain } = await stage.hosts
      .host('beta')
      .client.domains.getDomain({ domain: 'resident' });
    const uuid = domain?.spec?.uuid ?? '';
    const guest = stage.hosts.launcher('beta').alive[0];
    const header = stage.fiction({ domainUuid: uuid, epoch: 2 ** 40, generation: 2 ** 40 }).header;
    const taken = { ...stage.sound, spec: { ...stage.sound.spec, uuid, name: 'other' } };
    const byUuid = () => stage.calls.prepare(header, taken, patiently());
    expect(await tally.refused('the UUID', byUuid)).toBe('DOMAIN_EXISTS');
    const { header: other, launchSpec } = stage.fiction();
    const named = { ...launchSpec, spec: { ...launchSpec.spec, name: 'resident' } };
    const byName = () => stage.calls.prepare(other, named, patiently());
    expect(await tally.refused('the name', byName)).toBe('DOMAIN_EXISTS');
    if (guest) await stage.hosts.writes(guest, 2);
    const { client } = stage.hosts.host('beta');
    await client.domains.stopDomain({ domain: 'resident', force: true });
    await client.domains.startDomain({ domain: 'resident' });
    await client.domains.stopDomain({ domain: 'resident', force: true });
    await client.domains.deleteDomain({ domain: 'resident' });
    await stage.expectUnharmed();
  });
});

describe('a source that keeps to no order', () => {
  it('gets no guest to run that was never loaded, and nothing is left of it', async () => {
    const guest = { paused: false };
    const wait = patiently();
    const early = await stage.prepare();
    expect(await stage.calls.commit(early, guest, wait)).toMatchObject({ outcome: 'REFUSED' });
    const exported = await stage.prepare();
    await stage.calls.exportDisks(exported, 'direct', wait);
    expect(await stage.calls.commit(exported, guest, wait)).toMatchObject({ outcome: 'REFUSED' });
    const accepted = await stage.prepare();
    await stage.calls.acceptRam(accepted, 'direct', wait);
    expect(await stage.calls.commit(accepted, guest, wait)).toMatchObject({ outcome: 'REFUSED' });
    const uuids = [early, exported, accepted].map(({ domainUuid }) => domainUuid);
    const started = stage.hosts.launcher('beta').qemus.filter(({ uuid }) => uuids.includes(uuid));
    expect(started).toHaveLength(3);
    expect(started.flatMap(({ received }) => received.map(({ command }) => command))).not.toContain(
      'cont',
    );
    await stage.expectUnharmed();
  });

  it('breaks nothing by saying everything at once', async () => {
    const { header, launchSpec } = stage.fiction();
    const wait = patiently();
    const preparing = stage.calls.prepare(header, launchSpec, wait);
    const all = await Promise.allSettled([
      preparing,
      stage.calls.exportDisks(header, 'direct', wait),
      stage.calls.probeData(header, wait),
      stage.calls.acceptRam(header, 'stream', wait),
      stage.calls.shareIngress(header, { weight: 2 ** 32 - 1, wantRamTurn: true }, wait),
      stage.calls.awaitLoaded(header, wait),
      stage.calls.commit(header, { paused: false }, wait),
      stage.calls.sourceGone(header, wait),
      stage.calls.acceptRam({ ...header, attempt: 2 }, 'direct', wait),
      stage.calls.abort(header, wait),
    ]);
    const reasons = all.map((one) => (one.status === 'rejected' ? one.reason.reason : 'OK'));
    await stage.calls.abort(header, wait).catch(() => undefined);
    expect(reasons).not.toContain('INTERNAL');
    await stage.expectUnharmed();
  });
});

function sized(from: LaunchSpec, sizeBytes: number): LaunchSpec {
  return {
    ...from,
    spec: { ...from.spec, disks: from.spec.disks.map((disk) => ({ ...disk, sizeBytes })) },
    disks: from.disks.map((disk) => ({ ...disk, sizeBytes, allocatedBytes: sizeBytes })),
  };
}

function withDisk(from: LaunchSpec, change: object): LaunchSpec {
  const disks = from.spec.disks.map((disk) => ({ ...disk, ...change }));
  return { ...from, spec: { ...from.spec, disks } };
}
