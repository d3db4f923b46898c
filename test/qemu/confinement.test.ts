import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { migrate, type TestHost } from '../support/fleet.js';
import { RealFleet, type RealGuest } from '../support/real-fleet.js';

/** A range for each host, so that a user says where its QEMU runs. */
const UIDS = {
  alpha: { first: 410_000, last: 410_099 },
  beta: { first: 420_000, last: 420_099 },
} as const;
const MEMORY_KIB = 32 * 1024;

let hosts: RealFleet;
afterEach(() => hosts[Symbol.asyncDispose]());

function start(names: readonly (keyof typeof UIDS)[]): Promise<RealFleet> {
  return RealFleet.start(names, {
    config: (host, config) => ({ ...config, qemu: { uids: UIDS[host as keyof typeof UIDS] } }),
  });
}

async function pidOf(host: TestHost, uuid: string): Promise<number> {
  const { domain } = await host.client.domains.getDomain({ domain: uuid });
  expect(domain?.qemuPid).toBeGreaterThan(0);
  return domain?.qemuPid ?? 0;
}

/** Lines of /proc/PID/status, by name. */
function status(pid: number): Record<string, string> {
  const lines = readFileSync(`/proc/${pid}/status`, 'latin1').split('\n');
  return Object.fromEntries(
    lines.map((line) => {
      const [name = '', ...value] = line.split(':');
      return [name, value.join(':').trim().replaceAll('\t', ' ')];
    }),
  );
}

const uidOf = (pid: number) => Number(status(pid)['Uid']?.split(' ')[0]);
const image = (host: TestHost, { uuid }: RealGuest) => join(host.pool, uuid, 'disk0.raw');

/** Whether a program that runs as that user can read a file. */
function canRead(path: string, uid: number): boolean {
  const argv = [`if=${path}`, 'of=/dev/null', 'bs=512', 'count=1'];
  return spawnSync('/bin/dd', argv, { uid, gid: uid, cwd: '/' }).status === 0;
}

describe.skipIf(process.getuid?.() !== 0)('a real QEMU', () => {
  it('runs as a user of its domain, who can do nothing to another domain', async () => {
    hosts = await start(['alpha']);
    const alpha = hosts.host('alpha');
    const one = await hosts.run('alpha', [{}]);
    await alpha.client.domains.createDomain({
      spec: {
        name: 'other',
        memoryBytes: 32 * 1024 ** 2,
        accelerator: 'tcg',
        disks: [{ id: 'disk0', image: 'boot.raw' }],
      },
    });
    const { domain: other } = await alpha.client.domains.startDomain({ domain: 'other' });
    const pids = [await pidOf(alpha, one.uuid), other?.qemuPid ?? 0];
    const uids = pids.map(uidOf);
    expect(uids).toEqual([410_000, 410_001]);
    for (const [index, pid] of pids.entries()) {
      const uid = uids[index];
      expect(status(pid)).toMatchObject({
        Uid: `${uid} ${uid} ${uid} ${uid}`,
        Gid: `${uid} ${uid} ${uid} ${uid}`,
        Groups: '',
        NoNewPrivs: '1',
        Seccomp: '2',
        CapEff: '0000000000000000',
        CapPrm: '0000000000000000',
      });
    }
    const path = image(alpha, one);
    expect(canRead(path, uids[0] ?? 0)).toBe(true);
    expect(canRead(path, uids[1] ?? 0)).toBe(false);
    // Not even where somebody opened the file itself: nobody else gets into the folder.
    chmodSync(path, 0o666);
    expect(canRead(path, uids[1] ?? 0)).toBe(false);
    const { run, state } = alpha.config.directories;
    for (const folder of [
      run,
      state,
      join(alpha.pool, one.uuid),
      join(run, one.uuid),
      join(state, 'domains'),
    ]) {
      const list = spawnSync('/bin/ls', [folder], { uid: uids[1], gid: uids[1], cwd: '/' });
      expect(list.status, folder).not.toBe(0);
    }
    // Whoever knows the name of a file of the agent's cannot read it either.
    const open = execFileSync(
      'find',
      [
        state,
        '(',
        '-type',
        'f',
        '-perm',
        '/007',
        ')',
        '-o',
        '(',
        '-type',
        'd',
        '-perm',
        '/006',
        ')',
      ],
      { encoding: 'utf8' },
    );
    expect(open).toBe('');
    for (const name of ['agent.sock', 'rescue.sock']) {
      expect(lstatSync(join(run, one.uuid, name)).uid).toBe(uids[0]);
    }
  });

  it('has the environment, the open files and the dump of memory that it needs, and no more', async () => {
    hosts = await start(['alpha']);
    const alpha = hosts.host('alpha');
    process.env['DROVER_TEST_SECRET'] = 'do not tell';
    const guest = await hosts.run('alpha', [{}]);
    delete process.env['DROVER_TEST_SECRET'];
    const pid = await pidOf(alpha, guest.uuid);
    const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').filter(Boolean);
    expect(environment.sort()).toEqual(['LANG=C', `PATH=${process.env['PATH']}`]);
    expect(readlinkSync(`/proc/${pid}/cwd`)).toBe('/');
    const files = readdirSync(`/proc/${pid}/fd`)
      .map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
      .filter((link) => link.startsWith('/') && !link.startsWith('/memfd:'));
    const { run, state } = alpha.config.directories;
    const own = [
      '/dev/null',
      '/dev/urandom',
      join(run, guest.uuid, 'qemu.log'),
      join(run, guest.uuid, 'qemu.pid'),
      join(state, 'domains', guest.uuid, 'serial.log'),
      image(alpha, guest),
    ];
    expect(files.filter((file) => !own.includes(file))).toEqual([]);
    // The guest's memory is the mapping of its size. "dd": it is not part of a core dump.
    const mappings = readFileSync(`/proc/${pid}/smaps`, 'latin1').split(/^(?=[0-9a-f]+-)/m);
    const memory = mappings.filter((text) =>
      new RegExp(`^Size: +${MEMORY_KIB} kB$`, 'm').test(text),
    );
    expect(memory.length).toBeGreaterThan(0);
    for (const mapping of memory) expect(/^VmFlags:.*$/m.exec(mapping)?.[0]).toContain(' dd');
  });

  it('has the user that is free at the destination, and one for all its lives', async () => {
    hosts = await start(['alpha', 'beta']);
    const [alpha, beta] = [hosts.host('alpha'), hosts.host('beta')];
    const guest = await hosts.run('alpha', [{}, { format: 'qcow2' }]);
    expect(uidOf(await pidOf(alpha, guest.uuid))).toBe(410_000);
    expect((await migrate(alpha, 'web', 'beta')).failure).toBeUndefined();
    guest.arrived('beta');
    const pid = await pidOf(beta, guest.uuid);
    expect(uidOf(pid)).toBe(420_000);
    await guest.writes(20);
    await beta.stop();
    await beta.start();
    expect(await pidOf(beta, guest.uuid)).toBe(pid);
    await beta.client.domains.stopDomain({ domain: 'web', force: true });
    expect(lstatSync(join(beta.pool, guest.uuid)).uid).toBe(420_000);
    await beta.client.domains.startDomain({ domain: 'web' });
    expect(uidOf(await pidOf(beta, guest.uuid))).toBe(420_000);
    await guest.judge();
    await beta.client.domains.deleteDomain({ domain: 'web' });
    await hosts.expectNothingOn('beta', guest.uuid);
    expect(owned(beta)).toEqual([]);
  });

  it('leaves nothing that is its user’s where a migration fails', async () => {
    hosts = await start(['alpha', 'beta']);
    const [alpha, beta] = [hosts.host('alpha'), hosts.host('beta')];
    const guest = await hosts.run('alpha', [{}]);
    const failed = await migrate(alpha, 'web', 'beta', ({ phase }) => {
      if (phase !== 'PHASE_PRECOPY') return;
      for (const pid of pidsOf(beta)) process.kill(pid, 'SIGSEGV');
    });
    expect(failed.failure?.reason).toBe('DEST_QEMU_DIED');
    const { events } = await beta.client.hosts.listAuditEvents({});
    expect(events.map(({ action }) => action)).toContain('QEMU_CRASHED_WHILE_RECEIVING');
    await hosts.expectNothingOn('beta', guest.uuid);
    expect(owned(beta)).toEqual([]);
    expect((await migrate(alpha, 'web', 'beta')).failure).toBeUndefined();
    guest.arrived('beta');
    expect(uidOf(await pidOf(beta, guest.uuid))).toBe(420_000);
    await guest.judge();
  });

  it('is not started for a file that its user could not read, which the refusal names', async () => {
    hosts = await start(['alpha']);
    const alpha = hosts.host('alpha');
    const path = join(alpha.pool, 'images', 'boot.raw');
    chmodSync(path, 0o600);
    const spec = {
      name: 'web',
      memoryBytes: 32 * 1024 ** 2,
      accelerator: 'tcg',
      disks: [{ id: 'disk0', image: 'boot.raw', readOnly: true }],
    };
    const refused = alpha.client.domains.createDomain({ spec });
    await expect(refused).rejects.toMatchObject({ hint: `Run \`chmod o+r ${path}\`.` });
    chmodSync(path, 0o644);
    await alpha.client.domains.createDomain({ spec });
    const { domain } = await alpha.client.domains.startDomain({ domain: 'web' });
    expect(uidOf(domain?.qemuPid ?? 0)).toBe(410_000);
    await alpha.client.domains.stopDomain({ domain: 'web', force: true });
    chmodSync(join(alpha.pool, '..'), 0o700);
    const closed = alpha.client.domains.startDomain({ domain: 'web' });
    const command = `chmod o+x ${join(alpha.pool, '..')}`;
    await expect(closed).rejects.toMatchObject({ hint: `Run \`${command}\`.` });
    await alpha.stop();
    await expect(alpha.start()).rejects.toThrow(/cannot be searched by others/);
    chmodSync(join(alpha.pool, '..'), 0o711);
    await alpha.start();
  });
});

/** Everything below a host's folders that belongs to a user of its range. */
function owned(host: TestHost): string[] {
  const { first, last } = host.config.qemu.uids;
  const { run, state } = host.config.directories;
  const found = execFileSync('find', [run, state, host.pool, '-printf', '%U %p\n'], {
    encoding: 'utf8',
  });
  return found.split('\n').filter((line) => {
    const uid = Number(line.split(' ')[0]);
    return uid >= first && uid <= last;
  });
}

/** The processes of a host's users. */
function pidsOf(host: TestHost): number[] {
  const { first, last } = host.config.qemu.uids;
  const pids = readdirSync('/proc').map(Number).filter(Number.isInteger);
  return pids.filter((pid) => {
    try {
      return uidOf(pid) >= first && uidOf(pid) <= last;
    } catch {
      return false;
    }
  });
}
