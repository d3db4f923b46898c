/*
 * The ids that Drover gives to things inside QEMU, in one place, because the two sides of a
 * migration and an agent that re-attaches must all find them again. Block node names may have 31
 * characters, hence the limit of 20 for disk ids.
 */

/** The qdev id of a disk: what the guest sees. */
export const diskDevice = (diskId: string): string => `disk-${diskId}`;
/** The block node that the disk's device uses: the image's format layer. */
export const imageNode = (diskId: string): string => `${diskId}-image`;
/** The block node below it: the file. */
export const fileNode = (diskId: string): string => `${diskId}-file`;
/** The mirror job of a disk. */
export const mirrorJob = (diskId: string): string => `mirror-${diskId}`;
/** The block node that a mirror writes to. */
export const targetNode = (diskId: string): string => `target-${diskId}`;
/** The NBD export of a disk on the destination. */
export const exportId = (diskId: string): string => `export-${diskId}`;
/** The TLS credentials of the NBD connection, one object for each migration. */
export const PSK_OBJECT = 'drover-psk';
/** The TLS credentials with which an incoming QEMU takes its RAM. */
export const RAM_SERVER_KEY = 'drover-ram-server';
/** What the names of those begin with by which a QEMU sends its RAM. */
export const RAM_CLIENT_KEYS = 'drover-ram-to-';
/** Those of one place: its key's name is new for every QEMU that takes RAM. */
export const ramClientKey = (pskIdentity: string): string => `${RAM_CLIENT_KEYS}${pskIdentity}`;
/** The name of the socket that QEMU gets for its RAM. */
export const RAM_SOCKET = 'drover-ram';
/** The qdev id of a network interface. */
export const nicDevice = (nicId: string): string => `nic-${nicId}`;
/** Its back end. */
export const netdev = (nicId: string): string => `net-${nicId}`;
/** The controller of all virtio-scsi disks. */
export const SCSI_CONTROLLER = 'scsi0';
/** The random number generator. */
export const RNG_DEVICE = 'rng0';
/** The balloon. */
export const BALLOON_DEVICE = 'balloon0';
/** The serial console. */
export const SERIAL_DEVICE = 'serial0';
