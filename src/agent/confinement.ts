import { defaultLauncher } from '../process/default-launcher.js';
import { DetachedLauncher } from '../process/detached-launcher.js';
import type { Launcher } from '../process/launcher.js';
import type { Log } from '../util/log.js';
import type { AgentConfig } from './config.js';

/** What keeps QEMUs apart from this host and from each other; what does not is logged once. */
export function confinement(
  { qemu }: AgentConfig,
  log: Log,
  launcher?: Launcher,
): { readonly launcher: Launcher; readonly qemuUids: AgentConfig['qemu']['uids'] | undefined } {
  const chosen = launcher ?? defaultLauncher();
  if (!launcher && chosen instanceof DetachedLauncher) {
    log.warn({}, 'without systemd nothing limits the memory and the threads of QEMUs');
  }
  const isRoot = process.getuid?.() === 0;
  if (!isRoot) log.warn({}, 'the agent is not root: all QEMUs run as the same user as the agent');
  return { launcher: chosen, qemuUids: isRoot ? qemu.uids : undefined };
}
