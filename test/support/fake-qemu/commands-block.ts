import { type BlockNode, describeNode } from './block-graph.js';
import type { Commands } from './commands.js';
import { FakeQmpError } from './errors.js';
import { MirrorJob } from './mirror-job.js';
import { NbdClient } from './nbd-client.js';
import { NbdServer } from './nbd-server.js';
import type { FakeQemu } from './qemu.js';

/** Commands about nodes, exports and mirrors. */
export const BLOCK_COMMANDS: Commands = {
  'query-block': (qemu) => qemu.graph.queryBlock(isActive(qemu)),
  'query-named-block-nodes': (qemu) =>
    [...qemu.graph.nodes.values()].map((node) => describeNode(node, isActive(qemu))),
  'query-block-jobs': (qemu) => [...qemu.jobs.values()].map((job) => job.describe()),
  'query-jobs': (qemu) => [...qemu.jobs.values()].map((job) => job.describeShort()),
  'query-blockstats': (qemu) => qemu.graph.queryBlockstats(),
  'query-block-exports': (qemu) =>
    [...qemu.exports.values()].map(({ id, node }) => ({
      id,
      type: 'nbd',
      'node-name': node.name,
      'shutting-down': false,
    })),

  'nbd-server-start': async (qemu, args) => {
    if (qemu.nbdServer) throw new FakeQmpError('NBD server already running');
    const { addr } = args;
    if (addr.type !== 'inet' && addr.type !== 'unix') {
      throw new FakeQmpError('The fake serves NBD over TCP and unix sockets only');
    }
    const place =
      addr.type === 'unix'
        ? { path: addr.data.path }
        : { host: addr.data.host, port: Number(addr.data.port) };
    const keys =
      args['tls-creds'] === undefined ? undefined : qemu.objects.serverKeys(args['tls-creds']);
    qemu.nbdServer = await NbdServer.start(place, {
      keys,
      exports: qemu.exports,
      beforeWrite: () => qemu.faults.strike(qemu, 'before', { nbd: 'write' }),
    });
    return {};
  },

  'nbd-server-stop': async (qemu) => {
    if (!qemu.nbdServer) throw new FakeQmpError('NBD server not running');
    qemu.nbdServer.stop();
    qemu.nbdServer = undefined;
    for (const id of [...qemu.exports.keys()]) await removeExport(qemu, id);
    return {};
  },

  'block-export-add': (qemu, args) => {
    if (args.type !== 'nbd') throw new FakeQmpError('The fake exports by NBD only');
    const { id, 'node-name': nodeName } = args;
    const name = args.name ?? nodeName;
    if (!qemu.nbdServer) throw new FakeQmpError('NBD server not running');
    if (qemu.exports.has(id)) throw new FakeQmpError(`Block export id '${id}' is already in use`);
    const node = qemu.graph.get(nodeName);
    if ([...qemu.exports.values()].some((other) => other.name === name)) {
      throw new FakeQmpError(`NBD server already has export named '${name}'`);
    }
    if (qemu.graph.isGuestDisk(node) && qemu.runState !== 'inmigrate' && args.writable === true) {
      throw new FakeQmpError(`Permission conflict on node '${nodeName}'`);
    }
    qemu.exports.set(id, { id, name, node });
    return {};
  },

  'block-export-del': async (qemu, args) => {
    if (!qemu.exports.has(args.id)) throw new FakeQmpError(`Export '${args.id}' is not found`);
    await removeExport(qemu, args.id);
    return {};
  },

  'blockdev-add': async (qemu, args) => {
    const name = args['node-name'] ?? '';
    if (args.driver !== 'nbd') {
      qemu.graph.addFile(args as unknown as Readonly<Record<string, unknown>>);
      return {};
    }
    if (qemu.graph.nodes.has(name))
      throw new FakeQmpError(`Duplicate nodes with node-name='${name}'`);
    const { server } = args;
    if (server.type !== 'inet' && server.type !== 'unix') {
      throw new FakeQmpError('The fake connects to NBD over TCP and unix sockets only');
    }
    const credentials =
      args['tls-creds'] === undefined
        ? undefined
        : qemu.objects.clientCredentials(args['tls-creds']);
    const isUnix = server.type === 'unix';
    const place = isUnix ? { path: server.path } : { host: server.host, port: Number(server.port) };
    const client = await NbdClient.connect(place, args.export ?? '', credentials);
    const url = isUnix
      ? `nbd+unix:///${args.export}?socket=${server.path}`
      : `nbd://${server.host}:${server.port}/${args.export}`;
    qemu.graph.addNbd(name, url, client);
    return {};
  },

  'blockdev-del': (qemu, args) => {
    const name = args['node-name'];
    const node = qemu.graph.nodes.get(name);
    const inUse = (user: BlockNode) => user === node;
    const jobs = [...qemu.jobs.values()].filter((job) => job.status !== 'concluded');
    if (
      jobs.some(({ options }) => inUse(options.source) || inUse(options.target)) ||
      [...qemu.exports.values()].some((item) => inUse(item.node))
    ) {
      throw new FakeQmpError(`Node ${name} is in use`);
    }
    qemu.graph.remove(name).nbd?.close();
    return {};
  },

  'blockdev-mirror': async (qemu, args) => {
    const id = args['job-id'] ?? args.device;
    if (qemu.jobs.has(id)) throw new FakeQmpError(`Job ID '${id}' already in use`);
    const job = new MirrorJob(
      {
        id,
        source: findNode(qemu, args.device),
        target: findNode(qemu, args.target),
        autoDismiss: args['auto-dismiss'] ?? true,
        writeBlocking: args['copy-mode'] === 'write-blocking',
        speed: args.speed ?? 0,
      },
      (event, data) => qemu.emit(event, data),
      () => qemu.jobs.delete(id),
    );
    qemu.jobs.set(id, job);
    await job.start();
    return {};
  },

  'blockdev-set-active': () => ({}),

  'block-job-change': (qemu, args) => {
    findBlockJob(qemu, args.id).change(
      args.type === 'mirror' && args['copy-mode'] === 'write-blocking',
    );
    return {};
  },
  'block-job-cancel': (qemu, args) => {
    findBlockJob(qemu, args.device).cancel(args.force === true);
    return {};
  },
  'block-job-set-speed': (qemu, args) => {
    findBlockJob(qemu, args.device).setSpeed(args.speed);
    return {};
  },
  'job-cancel': (qemu, args) => {
    findJob(qemu, args.id).cancel(true);
    return {};
  },
  'job-dismiss': async (qemu, args) => {
    await findJob(qemu, args.id).dismiss();
    return {};
  },
};

/** An incoming QEMU has its images open but inactive until the guest is loaded and started. */
function isActive(qemu: FakeQemu): boolean {
  return qemu.runState !== 'inmigrate' && qemu.runState !== 'postmigrate';
}

async function removeExport(qemu: FakeQemu, id: string): Promise<void> {
  qemu.exports.delete(id);
  await qemu.emit('BLOCK_EXPORT_DELETED', { id });
}

function findNode(qemu: FakeQemu, name: string): BlockNode {
  const node = qemu.graph.nodes.get(name);
  if (!node) throw new FakeQmpError(`Cannot find device='${name}' nor node-name='${name}'`);
  return node;
}

function findBlockJob(qemu: FakeQemu, id: string): MirrorJob {
  const job = qemu.jobs.get(id);
  if (!job) throw new FakeQmpError(`Block job '${id}' not found`, 'DeviceNotActive');
  return job;
}

function findJob(qemu: FakeQemu, id: string): MirrorJob {
  const job = qemu.jobs.get(id);
  if (!job) throw new FakeQmpError('Job not found');
  return job;
}
