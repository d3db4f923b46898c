import type { Transport } from '../channel/types.js';
import type { DataPlace, DiskServerAddress, RamServerAddress } from '../domain/launch-spec.js';
import { LAUNCH_LIMITS } from '../domain/launch-spec-check.js';
import type { DataProbe } from '../domain/types.js';
import type {
  AcceptRamResponse,
  ExportDisksResponse,
  ProbeDataResponse,
} from '../gen/drover/v1/peer_service.js';
import { RpcError } from './errors.js';
import { uint32 } from './whole-number.js';

/*
 * Where a destination wants bytes to be brought to. QEMU and the agent are about to connect there:
 * a peer is trusted to say nothing but an address.
 */

/** A name, an IPv4 or an IPv6 address; no path. */
const ADDRESS = /^[A-Za-z0-9:][A-Za-z0-9:.%_-]{0,252}$/;
const PSK_IDENTITY = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const PSK_BYTES = 32;
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const TICKET = /^[A-Za-z0-9_-]{1,128}$/;

/** The fields that every place has. */
type WirePlace = Pick<ExportDisksResponse, 'address' | 'port' | 'pskIdentity' | 'psk'>;

/** Where the source may try the data ports. */
export function probeToWire({ address, port, nonce }: DataProbe): ProbeDataResponse {
  return { address, port: uint32(port), nonce };
}

/** @throws RpcError `REQUEST_INVALID` */
export function probeFromWire({ address, port, nonce }: ProbeDataResponse): DataProbe {
  if (!isPort(address, port) || !TICKET.test(nonce)) throw unsound('a probe');
  return { address, port, nonce };
}

/** Where the disks are to be mirrored to. */
export function diskServerToWire(server: DiskServerAddress): ExportDisksResponse {
  return { ...placeToWire(server), exports: server.exports.map((one) => ({ ...one })) };
}

/** @throws RpcError `REQUEST_INVALID` */
export function diskServerFromWire(
  server: ExportDisksResponse,
  transport: Transport,
  host: string,
): DiskServerAddress {
  const { exports } = server;
  const sound =
    exports.length <= LAUNCH_LIMITS.disks &&
    // Without disks to mirror there is no server.
    (exports.length === 0 || isPlace(server, transport)) &&
    exports.every((one) => NAME.test(one.diskId) && NAME.test(one.exportName)) &&
    exports.every(({ ticket }) => transport === 'direct' || TICKET.test(ticket));
  if (!sound) throw unsound('the disks');
  const offered = exports.map(({ diskId, exportName, ticket }) => ({ diskId, exportName, ticket }));
  return { ...placeFromWire(server, transport, host), exports: offered };
}

/** Where the RAM is to be sent to. */
export function ramServerToWire(server: RamServerAddress): AcceptRamResponse {
  return { ...placeToWire(server), ticket: server.ticket };
}

/** @throws RpcError `REQUEST_INVALID` */
export function ramServerFromWire(
  server: AcceptRamResponse,
  transport: Transport,
  host: string,
): RamServerAddress {
  const { ticket } = server;
  if (!TICKET.test(ticket) || !isPlace(server, transport)) throw unsound('the RAM');
  return { ...placeFromWire(server, transport, host), ticket };
}

function placeToWire({ address, port, pskIdentity, psk }: DataPlace): WirePlace {
  return { address, port: uint32(port), pskIdentity, psk: Buffer.from(psk) };
}

function placeFromWire(place: WirePlace, transport: Transport, host: string): DataPlace {
  const { address, port, pskIdentity, psk } = place;
  return { transport, host, address, port, pskIdentity, psk };
}

function isPlace({ address, port, pskIdentity, psk }: WirePlace, transport: Transport): boolean {
  if (!isPort(address, port)) return false;
  return transport === 'stream' || (PSK_IDENTITY.test(pskIdentity) && psk.length === PSK_BYTES);
}

function isPort(address: string, port: number): boolean {
  return ADDRESS.test(address) && port >= 1 && port <= 65_535;
}

function unsound(what: string): RpcError {
  return new RpcError('REQUEST_INVALID', `The peer answered with no sound place for ${what}.`, {
    side: 'destination',
  });
}
