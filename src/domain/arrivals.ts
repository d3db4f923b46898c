import type { QemuProcess } from '../process/qemu-process.js';
import type { IncomingRecord, StoredDomain } from './definitions.js';
import { HostedDomain } from './hosted-domain.js';
import type { IncomingBooks } from './incoming-hold.js';
import { recoverIncoming, seeAsIncoming } from './incoming-recovery.js';
import { startIncoming } from './incoming-start.js';
import type { DomainTools } from './launch.js';
import { discardIncoming } from './reattach.js';
import { Refusals } from './refusals.js';
import type { Expected, Roster } from './roster.js';
import type { IncomingDomain, IncomingRequest, WaitOptions } from './types.js';

/** What an earlier life of the agent left of a domain on its way in. */
interface Leftover {
  readonly incoming: IncomingRecord;
  readonly expected: Expected;
  readonly forget: () => void;
}

/** The domains on their way to a host: new ones, and those an earlier life of the agent left. */
export class Arrivals {
  readonly #roster: Roster;
  readonly #tools: DomainTools;
  readonly #leftovers = new Map<string, Leftover>();
  readonly #processes = new Set<QemuProcess>();
  readonly #background = new Set<Promise<void>>();

  constructor(roster: Roster, tools: DomainTools) {
    this.#roster = roster;
    this.#tools = tools;
  }

  /** Keeps aside what an earlier life of the agent left, with its name and UUID. */
  keep({ uuid, incoming }: StoredDomain): void {
    if (!incoming) return;
    const { spec, process } = incoming.definition;
    const qemuPid = process?.process.pid ?? 0;
    const expected: Expected = { spec, coming: incoming, qemuPid };
    const forget = this.#roster.expect(expected);
    this.#leftovers.set(uuid, { incoming, expected, forget });
  }

  /** See MigratableDomains. */
  async start(request: IncomingRequest, options: WaitOptions): Promise<IncomingDomain> {
    this.#tools.doubts.assertNoQuarantine();
    const { spec } = request.launchSpec;
    const refusals = new Refusals();
    this.#roster.checkArrival(request, refusals);
    // A domain that is refused for being here must not seem to come as well.
    const expected: Expected = { spec, coming: request };
    const forget = refusals.empty ? this.#roster.expect(expected) : () => {};
    const books = this.#books(spec.uuid, expected, forget);
    return startIncoming(request, books, refusals, this.#tools, options);
  }

  /** See MigratableDomains. */
  async recover(
    uuid: string,
    migrationId: string,
    options: WaitOptions,
  ): Promise<IncomingDomain | undefined> {
    this.#tools.doubts.assertNoQuarantine();
    const leftover = this.#leftovers.get(uuid);
    if (leftover?.incoming.migrationId === migrationId) {
      this.#leftovers.delete(uuid);
      const { incoming, expected, forget } = leftover;
      const books = this.#books(uuid, expected, forget);
      try {
        return await recoverIncoming(uuid, incoming, books, this.#tools, options);
      } catch (error) {
        this.#leftovers.set(uuid, leftover);
        throw error;
      }
    }
    const domain = this.#roster.get(uuid);
    const arrived = domain?.ownership.ownedHere && domain.definition.arrivedBy === migrationId;
    return arrived ? await seeAsIncoming(domain, this.#tools, options) : undefined;
  }

  /** See MigratableDomains. What cannot be removed is logged, and tried by the next life again. */
  async sweep(options: WaitOptions): Promise<void> {
    if (this.#tools.doubts.quarantine) return;
    const { log } = this.#tools.resources.settings;
    const leftovers = [...this.#leftovers];
    await Promise.all(
      leftovers.map(async ([uuid, { incoming, forget }]) => {
        try {
          await discardIncoming(uuid, incoming, this.#tools, options);
          this.#leftovers.delete(uuid);
          forget();
          this.#changed(uuid);
        } catch (error) {
          options.signal.throwIfAborted();
          log.error({ err: error, uuid }, 'could not remove a domain that did not arrive');
        }
      }),
    );
  }

  /** Lets go of all QEMUs at the agent's end; what was begun in the background ends before. */
  async close(): Promise<void> {
    await Promise.all(this.#background);
    await Promise.all([...this.#processes].map((process) => process.detach()));
  }

  #books(uuid: string, expected: Expected, forget: () => void): IncomingBooks {
    return {
      started: (pid, process) => {
        expected.qemuPid = pid;
        if (!process) return;
        this.#processes.add(process);
        void process.exited.then(() => this.#processes.delete(process));
      },
      gone: () => {
        forget();
        this.#changed(uuid);
      },
      arrived: (definition, { running, silent }) => {
        const domain = new HostedDomain(definition, this.#tools);
        if (running) domain.adopt(running);
        else if (silent) domain.adoptSilent(silent);
        this.#roster.add(domain);
        forget();
        this.#changed(uuid);
        return () => this.#settle(domain);
      },
    };
  }

  /** Puts a domain that has come on disk; what it left here earlier, and its record, go then. */
  async #settle(domain: HostedDomain): Promise<void> {
    await domain.ownership.update({});
    const { log } = this.#tools.resources.settings;
    try {
      await this.#tools.definitions.removeIncoming(domain.uuid);
    } catch (error) {
      // The next life of the agent removes it: the domain is here, as its definition says.
      log.error({ err: error, domain: domain.name }, 'could not tidy up after an arrival');
    }
    const tidying = this.#tidy(domain)
      .catch((error) => log.error({ err: error }, 'could not tidy up after an arrival'))
      .finally(() => this.#background.delete(tidying));
    this.#background.add(tidying);
  }

  async #tidy(domain: HostedDomain): Promise<void> {
    if (!domain.process && !domain.silent) await domain.removeTaps();
    await domain.removeTombstone();
  }

  #changed(uuid: string): void {
    this.#tools.resources.settings.onChange?.(uuid);
  }
}
