import { lchown, lstat, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { ProcessUser } from '../process/launcher.js';
import type { DomainSpec } from '../spec/domain-spec.js';
import { assertReadable } from './access.js';
import { DomainError } from './errors.js';
import type { HostSettings } from './host-settings.js';
import type { Pool } from './pools.js';

/** The user of a domain, which nobody else gets while it is held. */
export interface HeldUser extends Disposable {
  readonly user: ProcessUser;
}

/** What a domain's folders are called: its UUID, and for further QEMUs a number behind it. */
const FOLDER = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.\d+)?$/;
const KVM = '/dev/kvm';

/**
 * The users that the QEMUs of a host run as, one for each domain. Nothing is written down but the
 * owners of folders: a user is a domain's as long as one of the domain's folders, for a QEMU or for
 * images, is owned by it.
 */
export class QemuUsers {
  readonly #settings: HostSettings;
  /** By UUID; what is held is promised, whoever owns the folders yet. */
  readonly #held = new Map<string, { readonly uid: number; holders: number }>();
  #queue: Promise<unknown> = Promise.resolve();
  #warned = false;

  constructor(settings: HostSettings) {
    this.#settings = settings;
  }

  /**
   * True where a domain's QEMUs run as a user of their own. Images in a shared pool are opened by
   * QEMUs of two hosts, which know nothing of each other's users.
   */
  separates(spec: DomainSpec): boolean {
    if (!this.#settings.qemuUids) return false;
    return !spec.disks.some(({ shared, readOnly }) => shared && !readOnly);
  }

  /**
   * Asserts that a domain's own user may read what other domains read too.
   *
   * @throws DomainError `MEDIA_MISSING`
   */
  async assertReadable(spec: DomainSpec, path: string): Promise<void> {
    if (this.separates(spec)) await assertReadable(path, this.#settings.host);
  }

  /**
   * The group of a domain's own user, where that is not one of its own: KVM may be only a group's.
   *
   * @throws DomainError `CPU_FEATURE_MISSING` where KVM is nobody's but root's
   */
  async groupFor(spec: DomainSpec): Promise<number | undefined> {
    if (spec.accelerator !== 'kvm' || !this.separates(spec)) return undefined;
    const { mode, gid } = await stat(KVM);
    if ((mode & 0o006) === 0o006) return undefined;
    if ((mode & 0o060) === 0o060 && gid !== 0) return gid;
    throw new DomainError(
      'CPU_FEATURE_MISSING',
      `${KVM} of ${this.#settings.host} may be opened by root only, and QEMU runs as another user.`,
      { hint: `Run \`chgrp kvm ${KVM} && chmod 0660 ${KVM}\`.` },
    );
  }

  /**
   * Finds a domain's user, or chooses one; undefined where its QEMU runs as the agent does. All
   * QEMUs of a domain have the same one, because they open the same images.
   *
   * @throws DomainError `QEMU_START_FAILED` where no user is left
   */
  async hold(spec: DomainSpec): Promise<HeldUser | undefined> {
    if (!this.separates(spec)) {
      this.#warnOfShared(spec);
      return undefined;
    }
    const gid = await this.groupFor(spec);
    // One after the other, or two domains could be promised the same user.
    const chosen = this.#queue.then(() => this.#choose(spec.uuid));
    this.#queue = chosen.catch(() => undefined);
    const { uid, release } = await chosen;
    return { user: { uid, gid: gid ?? uid }, [Symbol.dispose]: release };
  }

  /** Gives a domain's images to its user. Their folder goes last: once it is given, all is. */
  async giveImages(spec: DomainSpec, { uid, gid }: ProcessUser): Promise<void> {
    const own = spec.disks.filter(({ readOnly }) => !readOnly).map(({ pool }) => pool);
    for (const { name, path } of this.#settings.pools) {
      if (!own.includes(name)) continue;
      const folder = join(path, spec.uuid);
      const status = await lstat(folder).catch(() => undefined);
      // An image that is not there is missed by QEMU.
      if (!status?.isDirectory() || (status.uid === uid && status.gid === gid)) continue;
      for (const file of await readdir(folder)) await lchown(join(folder, file), uid, gid);
      await lchown(folder, uid, gid);
    }
  }

  async #choose(uuid: string): Promise<{ readonly uid: number; readonly release: () => void }> {
    let held = this.#held.get(uuid);
    if (!held) {
      held = { uid: await this.#find(uuid), holders: 0 };
      this.#held.set(uuid, held);
    }
    held.holders += 1;
    const entry = held;
    let released = false;
    return {
      uid: entry.uid,
      release: () => {
        if (released) return;
        released = true;
        entry.holders -= 1;
        if (entry.holders === 0) this.#held.delete(uuid);
      },
    };
  }

  async #find(uuid: string): Promise<number> {
    const { first, last } = this.#settings.qemuUids ?? { first: 1, last: 0 };
    const { run } = this.#settings.directories;
    const folders = [run, ...this.#settings.pools.map(({ path }: Pool) => path)];
    const owners = (await Promise.all(folders.map(ownersIn))).flat();
    const mine = owners.filter((one) => one.uuid === uuid && one.uid >= first && one.uid <= last);
    const others = new Set([
      ...owners.filter((one) => one.uuid !== uuid).map(({ uid }) => uid),
      ...[...this.#held.values()].map(({ uid }) => uid),
    ]);
    // The folder of a QEMU comes first: a further one must share its user, come what may.
    const known = mine.find(({ folder, uid }) => folder === run || !others.has(uid));
    if (known) return known.uid;
    for (let uid = first; uid <= last; uid++) if (!others.has(uid)) return uid;
    throw new DomainError(
      'QEMU_START_FAILED',
      `${this.#settings.host} has no user left to run QEMU as: all from ${first} to ${last} are taken.`,
      { hint: 'Widen qemu.uids in the configuration of the agent.' },
    );
  }

  #warnOfShared({ name }: DomainSpec): void {
    if (!this.#settings.qemuUids || this.#warned) return;
    this.#warned = true;
    const message = 'QEMUs of domains with writable disks in shared pools run as the agent does';
    this.#settings.log.warn({ domain: name }, message);
  }
}

/** Which domain has which user, as the folders of one place say. */
async function ownersIn(
  folder: string,
): Promise<readonly { readonly folder: string; readonly uuid: string; readonly uid: number }[]> {
  const names = await readdir(folder).catch(() => []);
  const found = names.map(async (name) => {
    const uuid = FOLDER.exec(name)?.[1];
    const uid = uuid && (await lstat(join(folder, name)).catch(() => undefined))?.uid;
    return uuid && uid !== undefined && uid !== '' ? [{ folder, uuid, uid }] : [];
  });
  return (await Promise.all(found)).flat();
}
