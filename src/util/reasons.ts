/**
 * Every reason that Drover gives for not doing something: permanent codes, how a caller should
 * treat them, and what to do. docs/errors.md is checked against this table.
 *
 * `status` is the name of the gRPC code; only rpc/error-status.ts knows its number.
 */
export const REASONS = {
  DOMAIN_NOT_FOUND: r(
    'NOT_FOUND',
    false,
    'There is no such domain here.',
    'Check the name with `drover list`.',
  ),
  DOMAIN_EXISTS: r(
    'ALREADY_EXISTS',
    false,
    'A domain of this name or UUID exists here.',
    'Choose another name, or delete the old domain.',
  ),
  DOMAIN_NOT_RUNNING: r(
    'FAILED_PRECONDITION',
    false,
    'The domain does not run here.',
    'Ask the agent named in owner_host, or start the domain.',
  ),
  DOMAIN_BUSY: r(
    'FAILED_PRECONDITION',
    true,
    'Something else is being done with the domain.',
    'Wait until it has ended, or cancel the migration.',
  ),
  DOMAIN_MOVED: r(
    'FAILED_PRECONDITION',
    false,
    'The domain lives on another host; a second copy must not run here.',
    'Ask the agent named in owner_host.',
  ),
  MIGRATION_NOT_FOUND: r(
    'NOT_FOUND',
    false,
    'This agent knows no such migration.',
    'Ask the agent of the other host, or list the migrations.',
  ),
  MIGRATION_EXISTS: r(
    'ALREADY_EXISTS',
    false,
    'A migration of this id exists and asks for something else.',
    'Use a new migration id.',
  ),
  PEER_NOT_FOUND: r(
    'NOT_FOUND',
    false,
    "The destination is not one of this agent's peers.",
    'Check the name with `drover peers`; add the peer to the configuration.',
  ),
  AGENT_UNREACHABLE: r(
    'UNAVAILABLE',
    true,
    'The agent does not answer its caller.',
    'Check that it runs, and that --agent or DROVER_AGENT names its address or socket.',
  ),
  PEER_UNREACHABLE: r(
    'UNAVAILABLE',
    true,
    'The other agent does not answer.',
    'Check that it runs, and that its address and port can be reached from here.',
  ),
  PEER_LOST: r(
    'UNAVAILABLE',
    true,
    'The other agent stopped answering during the migration.',
    'Check the other agent and the network, then migrate again.',
  ),
  TLS_PEER_REJECTED: r(
    'UNAUTHENTICATED',
    false,
    'The certificates of the two agents do not fit.',
    "Check that both are signed by the same CA and that each carries its own host's name.",
  ),
  VERSION_SKEW: r(
    'FAILED_PRECONDITION',
    false,
    'The two agents speak different versions of the protocol.',
    'Upgrade the older agent.',
  ),
  SAME_HOST: r(
    'INVALID_ARGUMENT',
    false,
    'The destination is the host that the domain runs on.',
    'Name another host.',
  ),
  ALREADY_MIGRATING: r(
    'ABORTED',
    true,
    'The domain is being migrated already.',
    'Watch or cancel the migration named in migration_id.',
  ),
  PERMISSION_DENIED: r(
    'PERMISSION_DENIED',
    false,
    'The caller may not do this.',
    'Use a certificate of this fleet with a role that may.',
  ),
  CONFIG_INVALID: r(
    'INVALID_ARGUMENT',
    false,
    'The configuration file is wrong.',
    'Correct the file as the message says.',
  ),
  SPEC_INVALID: r(
    'INVALID_ARGUMENT',
    false,
    "The domain's spec is wrong.",
    'Correct the spec; all violations are listed.',
  ),
  REQUEST_INVALID: r(
    'INVALID_ARGUMENT',
    false,
    'The request is wrong.',
    'Correct the request as the message says.',
  ),
  QEMU_MISSING: r(
    'FAILED_PRECONDITION',
    false,
    'No QEMU was found on the host.',
    'Install qemu-system-x86 and qemu-utils, 9.1 or later.',
  ),
  QEMU_TOO_OLD: r(
    'FAILED_PRECONDITION',
    false,
    "The host's QEMU is below the floor, 9.1.",
    'Install QEMU 9.1 or later.',
  ),
  QEMU_KNOWN_BAD: r(
    'FAILED_PRECONDITION',
    false,
    'This version of QEMU is known to lose or damage guests.',
    'Install another version of QEMU.',
  ),
  QEMU_START_FAILED: r(
    'INTERNAL',
    false,
    'QEMU did not start.',
    'Read the end of its log in the message.',
  ),
  QEMU_ERROR: r(
    'INTERNAL',
    false,
    'QEMU refused a command.',
    'See the message; the guest was not touched.',
  ),
  QEMU_BLOCKER: r(
    'FAILED_PRECONDITION',
    false,
    'QEMU says that this guest cannot be migrated.',
    'Remove the device that the message names.',
  ),
  QEMU_DEVICE_UNKNOWN: r(
    'FAILED_PRECONDITION',
    false,
    'The domain has a device that Drover cannot move.',
    'Remove the device that the message names.',
  ),
  MACHINE_TYPE_UNKNOWN: r(
    'FAILED_PRECONDITION',
    false,
    "The destination's QEMU does not know the machine type.",
    'Use the same QEMU version, or a machine type both know.',
  ),
  CPU_FEATURE_MISSING: r(
    'FAILED_PRECONDITION',
    false,
    'The host cannot offer a CPU feature that the domain has.',
    'Create the domain with a CPU model that all hosts have.',
  ),
  VMSTATE_INCOMPATIBLE: r(
    'FAILED_PRECONDITION',
    false,
    "The destination's QEMU could not load the guest.",
    "Compare the QEMU versions of both hosts; read the destination's QEMU log.",
  ),
  MEDIA_MISSING: r(
    'FAILED_PRECONDITION',
    false,
    'The host lacks a kernel or an image that the domain needs, or has another version of it.',
    "Copy the same file to the host's catalogue or pool.",
  ),
  BRIDGE_MISSING: r(
    'FAILED_PRECONDITION',
    false,
    'The host has no such bridge.',
    "Create the bridge, or change the domain's network interface.",
  ),
  NETWORK_NOT_OFFERED: r(
    'FAILED_PRECONDITION',
    false,
    'The host does not offer this network to domains.',
    "Add it to `networks` of the host's agent, or change the domain's network interface.",
  ),
  DISK_TARGET_MISSING: r(
    'FAILED_PRECONDITION',
    false,
    'The host has no such pool.',
    "Add a pool of this name to the host's configuration.",
  ),
  DISK_NO_SPACE: r(
    'RESOURCE_EXHAUSTED',
    false,
    'The pool has not enough room.',
    'Free space in the pool, or choose another host.',
  ),
  DISK_SIZE_MISMATCH: r(
    'FAILED_PRECONDITION',
    false,
    'A disk has another size than its spec says.',
    'Stop the domain and correct its spec.',
  ),
  DISK_SHARED: r(
    'FAILED_PRECONDITION',
    false,
    'A shared disk needs a pool that is marked shared on both hosts.',
    'Mark the pool shared on both hosts, or use a pool that is not.',
  ),
  DISK_IO_ERROR: r(
    'INTERNAL',
    false,
    'Reading or writing an image failed.',
    'Check the storage of the host named.',
  ),
  NO_MEMORY: r(
    'RESOURCE_EXHAUSTED',
    false,
    'The host has not enough free memory.',
    'Free memory on the host, or choose another host.',
  ),
  NO_PORT: r(
    'RESOURCE_EXHAUSTED',
    true,
    'No port of the data range could be opened.',
    'Widen data.ports, or free ports of the range.',
  ),
  LIMIT_REACHED: r(
    'RESOURCE_EXHAUSTED',
    true,
    'The caller has reached a limit of this agent.',
    'Wait until what is under way has ended; the message names the limit. See docs/limits.md.',
  ),
  DATA_UNREACHABLE: r(
    'UNAVAILABLE',
    true,
    'Direct transport was asked for, and the source does not reach the data ports over there.',
    'Let it reach all ports of the data range, or leave the choice to `auto`.',
  ),
  MIRROR_FAILED: r(
    'ABORTED',
    true,
    'Mirroring a disk failed.',
    'Check the storage of both hosts and the network between them, then migrate again.',
  ),
  RAM_FAILED: r(
    'ABORTED',
    true,
    'Sending the RAM failed.',
    'Check the network between the hosts, then migrate again.',
  ),
  STALLED: r(
    'ABORTED',
    true,
    'A step did not finish within its time.',
    'Check the load of both hosts and the network, then migrate again.',
  ),
  SOURCE_QEMU_DIED: r(
    'ABORTED',
    false,
    "The source's QEMU ended during the migration.",
    'Read its log; start the domain on the source.',
  ),
  DEST_QEMU_DIED: r(
    'ABORTED',
    true,
    "The destination's QEMU ended during the migration.",
    'Read its log on the destination, then migrate again.',
  ),
  GUEST_STOPPED: r(
    'ABORTED',
    false,
    'The guest powered off during the migration.',
    'Start the domain on the source if it should run.',
  ),
  DOWNTIME_OVER_LIMIT: r(
    'ABORTED',
    true,
    'The downtime would have been over the limit.',
    'Raise the limit, or migrate when the guest is less busy.',
  ),
  WILL_NOT_CONVERGE: r(
    'ABORTED',
    true,
    'The guest changes its memory faster than it can be sent.',
    'Raise the downtime limit or the bandwidth, or migrate when the guest is less busy.',
  ),
  OWNERSHIP_UNKNOWN: r(
    'ABORTED',
    false,
    'It is not known which host owns the guest.',
    'Bring the other agent back; the guest is not started on a guess.',
  ),
  OWNERSHIP_LOST: r(
    'ABORTED',
    false,
    'The domain belongs to another host by the word of a person; the copy here is an old one.',
    'Use it there. Save what you need of this copy, then `drover stop --force` and `drover delete`.',
  ),
  NOTHING_TO_RESOLVE: r(
    'FAILED_PRECONDITION',
    false,
    'The migration is not in doubt, or the other side has answered meanwhile.',
    'Nothing has to be done: the agents settle it. See `drover who-runs`.',
  ),
  FENCE_UNPROVEN: r(
    'FAILED_PRECONDITION',
    false,
    'Nothing proves that the other host cannot run the guest.',
    'Power the other host off, then type the name of the domain with --confirm.',
  ),
  AGENT_RESTARTED: r(
    'ABORTED',
    true,
    'An agent ended while the migration was under way; it was rolled back.',
    'The guest is where it was. Start the migration again.',
  ),
  JOURNAL_FAILED: r(
    'INTERNAL',
    false,
    'A record could not be written to the journal.',
    "Check the storage and the free space of the state directory, then restart the host's agent.",
  ),
  JOURNAL_CORRUPT: r(
    'INTERNAL',
    false,
    'A journal is damaged, so that it is not known who may run the guest.',
    'Read it with `drover journal show` on both hosts, then resolve the migration.',
  ),
  STATE_LOCKED: r(
    'FAILED_PRECONDITION',
    true,
    'Another process uses the state directory.',
    'Stop the process that the message names, or give this agent a state directory of its own.',
  ),
  STATE_FOREIGN: r(
    'FAILED_PRECONDITION',
    false,
    'The state was written on another host or in another place; no guest starts from it.',
    'If no other host runs these guests, stop the agent and run `drover state accept`.',
  ),
  CANCELLED_BY: r(
    'CANCELLED',
    true,
    'The migration was cancelled on request.',
    'Migrate again when you like.',
  ),
  NOT_SUPPORTED: r(
    'UNIMPLEMENTED',
    false,
    'This agent cannot do that.',
    'See docs/ for what it can.',
  ),
  INTERNAL: r('INTERNAL', false, 'A fault in Drover.', "Report it with the agent's log."),
} as const satisfies Record<string, ReasonRule>;

/** A stable code; never renamed. */
export type Reason = keyof typeof REASONS;

/** How a reason is to be treated. */
export interface ReasonRule {
  /** The name of the gRPC status code. */
  readonly status: string;
  /** True when the same request may succeed later without a change. */
  readonly retryable: boolean;
  /** One sentence: what it means. */
  readonly summary: string;
  /** One sentence: what to do. */
  readonly hint: string;
}

function r<S extends string>(status: S, retryable: boolean, summary: string, hint: string) {
  return { status, retryable, summary, hint };
}
