import type { DomainInfo, DomainManager } from '../domain/manager.js';
import type { DomainServiceImplementation } from '../gen/drover/v1/domain_service.js';
import type { OwnershipPort } from '../migration/who-runs.js';
import { domainToWire } from './convert-host.js';
import { ownershipToWire } from './convert-ownership.js';
import { RpcError } from './errors.js';
import type { CallerContext } from './middleware.js';

const STOP_DEFAULT_MS = 60_000;
const STOP_LIMIT_MS = 600_000;

/** DomainService in front of the host's domains. */
export function domainService(
  domains: DomainManager,
  ownership: OwnershipPort,
): DomainServiceImplementation<CallerContext> {
  const answer = (domain: DomainInfo) => ({ domain: domainToWire(domain) });
  return {
    async createDomain({ spec }, { signal }) {
      // The spec is checked as it came: what is open in it is not yet filled in.
      if (!spec) throw new RpcError('SPEC_INVALID', 'The request has no spec.');
      return answer(await domains.create(spec, { signal }));
    },
    async startDomain({ domain, paused }, { signal }) {
      return answer(await domains.start(domain, { paused }, { signal }));
    },
    async stopDomain({ domain, force, timeLimitMs }, { signal }) {
      const limit = timeLimitMs || STOP_DEFAULT_MS;
      if (limit > STOP_LIMIT_MS) {
        throw new RpcError('REQUEST_INVALID', `time_limit_ms is above ${STOP_LIMIT_MS}: ${limit}.`);
      }
      return answer(await domains.stop(domain, { force, timeLimitMs: limit }, { signal }));
    },
    async deleteDomain({ domain, tombstone }) {
      await domains.delete(domain, { tombstone });
      return {};
    },
    async getDomain({ domain }) {
      return answer(await domains.get(domain));
    },
    async listDomains() {
      return { domains: (await domains.list()).map(domainToWire) };
    },
    async whoRuns({ domain, askedHosts }) {
      return { ownership: ownershipToWire(await ownership.whoRuns(domain, askedHosts)) };
    },
  };
}
