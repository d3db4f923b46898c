import { startAgent } from '../../src/agent/agent.js';
import { loadConfig } from '../../src/agent/config.js';
import { createLogger } from '../../src/agent/logger.js';
import { keepRescue } from '../../src/agent/rescue-keeper.js';
import { DetachedLauncher } from '../../src/process/detached-launcher.js';
import { chaoticHandler, chaoticLauncher, chaoticPeers, slowRam } from './decorators.js';
import { Effects, sayReady } from './effects.js';
import { chaoticFiles } from './journal-files.js';
import type { AgentSetup, Order } from './protocol.js';

/*
 * An agent under test: the very agent, with an ear at every command, event, call and record. Run
 * as a process of its own by the driver; its argument is the configuration file.
 */

const config = await loadConfig(process.argv[2] ?? '');
const setup = JSON.parse(process.env['DROVER_CHAOS'] ?? '{}') as AgentSetup;
const effects = new Effects();

process.on('message', (order: Order) => effects.obey(order));
// Without its driver it is of no use to anybody.
process.on('disconnect', () => process.exit(1));

slowRam(effects);
const launcher = new DetachedLauncher();
const log = createLogger({ host: config.host }, process.env);
const agent = await startAgent(config, log, {
  launcher: chaoticLauncher(launcher, effects, setup.consoles),
  transcript: () => effects.transcript(),
  peers: (directory) => chaoticPeers(directory, effects),
  handler: (handler) => chaoticHandler(handler, effects),
  journalFiles: chaoticFiles(effects),
  machine: { root: setup.root },
  observe: (migrationId, label) => effects.label(migrationId, label),
});
keepRescue({ directories: config.directories, launcher, log });
process.once('SIGTERM', () => void agent.close().then(() => process.exit(0)));
sayReady();
