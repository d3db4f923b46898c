import type { Commands } from './commands.js';
import { FakeQmpError } from './errors.js';

/** Machine types that a fake QEMU offers. */
export const FAKE_MACHINES = [
  { name: 'pc-q35-10.0', alias: 'q35', maxVcpus: 4096, deprecated: false },
  { name: 'pc-i440fx-10.0', alias: 'pc', maxVcpus: 255, deprecated: false },
] as const;

/** Commands about the machine as a whole. */
export const MACHINE_COMMANDS: Commands = {
  'query-version': () => ({ qemu: { major: 10, minor: 0, micro: 2 }, package: 'fake' }),
  'query-status': (qemu) => ({ status: qemu.runState, running: qemu.runState === 'running' }),
  'query-uuid': (qemu) => ({ UUID: qemu.uuid }),
  'query-name': (qemu) => ({ name: qemu.config.name }),
  'query-kvm': () => ({ enabled: false, present: false }),
  'query-machines': () =>
    FAKE_MACHINES.map(({ name, alias, maxVcpus, deprecated }) => ({
      name,
      alias,
      'cpu-max': maxVcpus,
      deprecated,
      'hotpluggable-cpus': true,
      'numa-mem-supported': true,
      acpi: true,
    })),
  'query-memory-size-summary': (qemu) => ({
    'base-memory': qemu.config.memoryBytes,
    'plugged-memory': 0,
  }),
  'query-cpus-fast': (qemu) =>
    Array.from({ length: qemu.config.vcpus }, (_, index) => ({
      target: 'x86_64',
      'cpu-index': index,
      'qom-path': `/machine/unattached/device[${index}]`,
      'thread-id': 1000 + index,
      props: { 'core-id': index, 'thread-id': 0, 'socket-id': 0 },
    })),
  'query-balloon': (qemu) => {
    if (qemu.config.devices.some(({ driver }) => String(driver).startsWith('virtio-balloon'))) {
      return { actual: qemu.config.memoryBytes };
    }
    throw new FakeQmpError('No balloon device has been activated', 'DeviceNotActive');
  },
  'qom-get': (qemu, { path, property }) => {
    const index = qemu.config.devices.findIndex(({ id }) => path === `/machine/peripheral/${id}`);
    const device = qemu.config.devices[index];
    if (!device) throw new FakeQmpError(`Device '${path}' not found`, 'DeviceNotFound');
    // QEMU gives devices without an address the next free slot, and then shows it.
    if (property === 'addr')
      return device['addr'] ?? `${(index + 1).toString(16).padStart(2, '0')}.0`;
    if (property in device) return device[property];
    throw new FakeQmpError(`Property '${String(device['driver'])}.${property}' not found`);
  },
  'qom-list': (qemu, { path }) => {
    if (path === '/objects') return [{ name: 'type', type: 'string' }, ...qemu.objects.list()];
    const named = path === '/machine/peripheral';
    if (!named && path !== '/machine/peripheral-anon') {
      throw new FakeQmpError(`Device '${path}' not found`, 'DeviceNotFound');
    }
    const devices = qemu.config.devices.filter(({ id }) => (id !== undefined) === named);
    return [
      { name: 'type', type: 'string' },
      ...devices.map(({ id, driver }, index) => ({
        name: named ? String(id) : `device[${index}]`,
        type: `child<${driver}>`,
      })),
    ];
  },

  'object-add': (qemu, args) => {
    qemu.objects.add(args as unknown as Readonly<Record<string, unknown>>);
    return {};
  },
  'object-del': (qemu, args) => {
    qemu.objects.remove(args.id);
    return {};
  },

  stop: async (qemu) => {
    if (qemu.runState === 'running') await qemu.stopGuest('paused');
    return {};
  },
  cont: async (qemu) => {
    if (qemu.runState === 'inmigrate') qemu.startsByItself = true;
    else if (qemu.runState === 'finish-migrate') {
      throw new FakeQmpError('Migration is not finalized yet');
    } else await qemu.startGuest();
    return {};
  },
  system_powerdown: async (qemu) => {
    await qemu.emit('POWERDOWN', {});
    // The fake guest obeys at once, if it runs.
    if (qemu.runState === 'running') {
      await qemu.guest.stop();
      await qemu.emit('SHUTDOWN', { guest: true, reason: 'guest-shutdown' });
      setImmediate(() => qemu.exit(0));
    }
    return {};
  },
  system_reset: async (qemu) => {
    await qemu.emit('RESET', { guest: false, reason: 'host-qmp-system-reset' });
    return {};
  },
  quit: async (qemu) => {
    await qemu.emit('SHUTDOWN', { guest: false, reason: 'host-qmp-quit' });
    setImmediate(() => qemu.exit(0));
    return {};
  },
  'announce-self': () => ({}),

  'query-yank': (qemu) => [
    ...['agent-monitor', 'rescue-monitor'].map((id) => ({ type: 'chardev' as const, id })),
    ...(qemu.outgoing?.active || qemu.incomingMigration ? [{ type: 'migration' as const }] : []),
    ...[...qemu.graph.nodes.values()]
      .filter(({ nbd }) => nbd)
      .map(({ name }) => ({ type: 'block-node' as const, 'node-name': name })),
  ],
  yank: (qemu, { instances }) => {
    for (const instance of instances) {
      if (instance.type === 'migration') {
        qemu.outgoing?.yank();
        qemu.incomingMigration?.yank();
      } else if (instance.type === 'block-node') {
        qemu.graph.nodes.get(instance['node-name'])?.nbd?.close();
      }
    }
    return {};
  },
};
