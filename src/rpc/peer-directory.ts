import { DomainServiceDefinition } from '../gen/drover/v1/domain_service.js';
import { HostServiceDefinition } from '../gen/drover/v1/host_service.js';
import type { PeerAddress, PeerFacts, Peers } from '../mesh/peers.js';
import { asReasoned } from '../migration/errors.js';
import type { Statement } from '../migration/ownership-verdict.js';
import type { PeerCalls, PeerDirectory } from '../migration/peer.js';
import type { Question } from '../migration/who-runs.js';
import { plainText } from '../util/plain-text.js';
import { Connection } from './connection.js';
import { statementsFromWire } from './convert-ownership.js';
import { PeerClient } from './peer-client.js';
import { PEER_CHANNEL_OPTIONS } from './settings.js';
import type { TlsSource } from './tls-material.js';

const ASK_LIMIT_MS = 3_000;
/** Characters of what a peer says that its version is. */
const VERSION_LIMIT = 64;

/**
 * Finds the agents of other hosts by the names in the configuration, and keeps one client for each.
 */
export class PeerClients implements PeerDirectory, Disposable {
  readonly #peers: Peers;
  readonly #tls: TlsSource;
  readonly #clients = new Map<string, PeerClient>();

  constructor(peers: Peers, tls: TlsSource) {
    this.#peers = peers;
    this.#tls = tls;
  }

  /** @throws ReasonedError `PEER_NOT_FOUND`, `SAME_HOST` */
  calls(host: string): PeerCalls {
    const peer = this.#peers.find(host);
    const client = this.#clients.get(host) ?? new PeerClient(peer, this.#tls);
    this.#clients.set(host, client);
    return client;
  }

  /**
   * Asks every peer at once whether it is there. Never throws: what is wrong is part of the answer.
   */
  async describe(): Promise<readonly PeerFacts[]> {
    return await Promise.all(this.#peers.list().map((peer) => this.#ask(peer)));
  }

  /**
   * Asks an agent which host has a domain. What it says itself is the first statement.
   *
   * @throws ReasonedError `PEER_NOT_FOUND`, `PEER_UNREACHABLE`, `DOMAIN_NOT_FOUND`, ...
   */
  async whoRuns(host: string, question: Question): Promise<readonly Statement[]> {
    const { domainUuid: domain, askedHosts, limitMs } = question;
    const connection = this.#connect(this.#peers.find(host));
    try {
      const client = connection.client(DomainServiceDefinition, { whoRuns: limitMs });
      const { ownership } = await client.whoRuns({ domain, askedHosts: [...askedHosts] });
      return statementsFromWire(ownership);
    } finally {
      connection.close();
    }
  }

  [Symbol.dispose](): void {
    for (const client of this.#clients.values()) client.close();
  }

  async #ask(peer: PeerAddress): Promise<PeerFacts> {
    const startedMs = performance.now();
    let connection: Connection | undefined;
    try {
      connection = this.#connect(peer);
      const client = connection.client(HostServiceDefinition, { getHost: ASK_LIMIT_MS });
      const { host } = await client.getHost({});
      return {
        ...peer,
        reachable: true,
        agentVersion: plainText(host?.agentVersion ?? '', VERSION_LIMIT),
        problem: '',
        roundTripMs: Math.round(performance.now() - startedMs),
      };
    } catch (error) {
      const problem = asReasoned(error).message;
      return { ...peer, reachable: false, agentVersion: '', problem, roundTripMs: 0 };
    } finally {
      connection?.close();
    }
  }

  #connect({ address, name }: PeerAddress): Connection {
    const unreachable = 'PEER_UNREACHABLE';
    const target = { address, host: name, tls: this.#tls, unreachable } as const;
    return new Connection(target, PEER_CHANNEL_OPTIONS);
  }
}
