import { existsSync } from 'node:fs';
import { DetachedLauncher } from './detached-launcher.js';
import type { Launcher } from './launcher.js';
import { SystemdLauncher } from './systemd-launcher.js';

/**
 * The launcher that fits this host: systemd's where systemd runs, else one of detached sessions.
 */
export function defaultLauncher(): Launcher {
  return existsSync('/run/systemd/system') ? new SystemdLauncher() : new DetachedLauncher();
}
