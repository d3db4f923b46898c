import type { HostServiceImplementation } from '../gen/drover/v1/host_service.js';
import { auditPageToWire, auditQueryFromWire } from './convert-audit.js';
import { hostToWire, peerToWire } from './convert-host.js';
import type { CallerContext } from './middleware.js';
import type { HostPort } from './ports.js';

/** HostService in front of the agent. */
export function hostService(
  host: HostPort,
  agentVersion: string,
): HostServiceImplementation<CallerContext> {
  return {
    async getHost() {
      return { host: hostToWire(await host.facts(), agentVersion) };
    },
    async listPeers() {
      return { peers: (await host.peers()).map(peerToWire) };
    },
    async listAuditEvents(request) {
      const { query, limit } = auditQueryFromWire(request);
      // One more shows whether there is another page.
      return auditPageToWire(host.auditEvents(query, limit + 1), limit);
    },
  };
}
