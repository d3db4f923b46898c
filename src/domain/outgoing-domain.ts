import { join } from 'node:path';
import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError } from '../qmp/errors.js';
import type { DomainSpec } from '../spec/domain-spec.js';
import { removeFolder } from '../util/held-folder.js';
import { DomainError } from './errors.js';
import { QemuFaults, type ReportProblem } from './faults.js';
import type { HostedDomain } from './hosted-domain.js';
import { activateImages } from './image-locks.js';
import type { DomainTools } from './launch.js';
import { removeMirrors } from './mirror-removal.js';
import { imageNode, mirrorJob, targetNode } from './names.js';
import { mirroredDisks, observeOutgoing } from './outgoing-state.js';
import { RAM_KEY_FOLDER, removeRamKeys } from './ram-way.js';
import { attachTo } from './reattach.js';
import { isHeld, resumeSource } from './resume-source.js';
import type { Domain, OutgoingDomain, OutgoingState, WaitOptions } from './types.js';

/** A domain of this host that was leaving when an earlier life of the agent ended. */
export class QemuOutgoingDomain implements OutgoingDomain {
  readonly #hosted: HostedDomain;
  readonly #tools: DomainTools;
  readonly #report: ReportProblem;

  constructor(hosted: HostedDomain, tools: DomainTools) {
    this.#hosted = hosted;
    this.#tools = tools;
    const { log } = tools.resources.settings;
    this.#report = (step, error) =>
      log.warn({ err: error, step, domain: hosted.name }, 'could not undo a step');
  }

  get name(): string {
    return this.#hosted.name;
  }

  get domain(): Domain | undefined {
    return this.#hosted.migratable;
  }

  /** @throws DomainError `QEMU_ERROR` or `STALLED` for a QEMU that lives and does not answer */
  async observe(options: WaitOptions): Promise<OutgoingState> {
    await this.#hail(options);
    const { process } = this.#hosted;
    if (!process) return { qemu: 'gone', mirrored: false };
    using faults = new QemuFaults(process, 'source');
    try {
      const qmp = await process.reconnected();
      const { spec } = this.#hosted.definition;
      const found = await observeOutgoing(qmp, spec, options);
      if (found.qemu === 'completed') this.#lockImages(qmp, spec);
      return found;
    } catch (error) {
      if (!this.#hosted.process) return { qemu: 'gone', mirrored: false };
      throw await faults.explain(error, 'looking at the domain');
    }
  }

  async bringBack(guest: { readonly paused: boolean }): Promise<void> {
    const { process } = this.#hosted;
    if (!process) return;
    const { spec } = this.#hosted.definition;
    const mirrors = mirroredDisks(spec).map((diskId) => ({
      job: mirrorJob(diskId),
      target: targetNode(diskId),
    }));
    const targets = mirrors.map(({ target }) => target);
    await resumeSource(process, { guestPaused: guest.paused, targets, only: isHeld }, this.#report);
    await removeMirrors(process, mirrors, this.#report);
    await removeRamKeys(process.qmp).catch((error) => this.#report('remove the key', error));
    // The keys lie there only for a moment; the agent may have ended in it.
    for (const folder of ['psk', RAM_KEY_FOLDER]) {
      const key = join(process.record.directory, folder);
      await removeFolder(key).catch((error) => this.#report('remove the key', error));
    }
  }

  retire(ownerHost: string): Promise<void> {
    return this.#hosted.retire(ownerHost);
  }

  /** As long as nobody knows whose the guest is, the images here are not to be written to. */
  #lockImages(qmp: QmpClient, spec: DomainSpec): void {
    activateImages(qmp, mirroredDisks(spec).map(imageNode)).catch((error) => {
      if (!(error instanceof QmpClosedError)) this.#report('lock the images', error);
    });
  }

  /** Tries again to speak to a QEMU that did not answer before. */
  async #hail(options: WaitOptions): Promise<void> {
    const { process } = this.#hosted.definition;
    if (!this.#hosted.silent) return;
    if (process) await attachTo(process, this.#hosted, this.#tools, options);
    if (!this.#hosted.silent) return;
    throw new DomainError('QEMU_ERROR', `The QEMU of ${this.name} does not answer.`, {
      side: 'source',
      facts: { pid: this.#hosted.silent.record.pid },
    });
  }
}
