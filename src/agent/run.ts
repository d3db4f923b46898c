import { defaultLauncher } from '../process/default-launcher.js';
import { deferred } from '../util/deferred.js';
import { type RunningAgent, startAgent } from './agent.js';
import { loadConfig } from './config.js';
import { checkFileModes } from './file-modes.js';
import { createLogger } from './logger.js';
import { keepRescue } from './rescue-keeper.js';

const LONG_MS = 3_600_000;

/** Where an agent listens. */
interface Ready {
  readonly host: string;
  readonly address: string;
  readonly unix: string;
}

/**
 * Runs the agent of a configuration file until SIGTERM or SIGINT, then ends it with time for calls
 * in progress. A second signal ends the process at once. QEMU processes stay either way. Beside it
 * runs a rescue process, which ends with an agent that ends in order. SIGHUP makes the agent read
 * its certificate files at once, which it does by itself within seconds.
 *
 * @throws ReasonedError `CONFIG_INVALID`, or what kept the agent from starting
 */
export async function runAgent(configFile: string, onReady: (ready: Ready) => void): Promise<void> {
  const config = await loadConfig(configFile);
  const logger = createLogger({ host: config.host }, process.env);
  await checkFileModes(configFile, config, logger);
  const ended = deferred<NodeJS.Signals>();
  process.once('SIGTERM', ended.resolve);
  process.once('SIGINT', ended.resolve);
  let agent: RunningAgent | undefined;
  // From the beginning: the signal's own meaning is to end the process.
  const onHangUp = () => agent?.reloadCertificates();
  process.on('SIGHUP', onHangUp);
  // Until it listens, an agent may wait for nothing but what does not keep a process running.
  const running = setInterval(() => undefined, LONG_MS);
  try {
    agent = await startAgent(config, logger);
    const { address, unix } = config.listen;
    const { directories } = config;
    const rescue = keepRescue({ directories, launcher: defaultLauncher(), log: logger });
    onReady({ host: config.host, address, unix });
    const signal = await ended.promise;
    logger.info({ signal }, 'agent is ending');
    await agent.close();
    // Last: until the state is given back, this process may still leave a guest paused.
    await rescue.stop();
  } finally {
    clearInterval(running);
    process.off('SIGTERM', ended.resolve);
    process.off('SIGINT', ended.resolve);
    process.off('SIGHUP', onHangUp);
  }
}
