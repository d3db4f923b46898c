import { qemuPaths } from './qemu-directory.js';
import type { QemuProcessRequest } from './qemu-process.js';

/** The options every QEMU gets. Values in QEMU's option syntax have their commas doubled. */
export function identityArguments(
  request: Pick<QemuProcessRequest, 'uuid' | 'name' | 'directory'>,
): readonly string[] {
  const paths = qemuPaths(request.directory);
  const value = (text: string) => text.replaceAll(',', ',,');
  const monitor = (id: string, path: string) => [
    '-chardev',
    `socket,id=${id},path=${value(path)},server=on,wait=off`,
    '-mon',
    `chardev=${id},mode=control`,
  ];
  return [
    '-nodefaults',
    '-no-user-config',
    '-name',
    `guest=${value(request.name)}`,
    '-uuid',
    request.uuid,
    '-display',
    'none',
    '-sandbox',
    'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
    '-pidfile',
    paths.pidFile,
    ...monitor('agent-monitor', paths.agentMonitor),
    ...monitor('rescue-monitor', paths.rescueMonitor),
  ];
}
