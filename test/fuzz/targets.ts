import { journal } from './journal.js';
import type { Target } from './target.js';
import { config, domainFile, domainSpec } from './text.js';
import { door, launchSpecTarget, peerMessages, qmp } from './wire.js';

/** Every parser of what does not come from Drover itself, or may have been damaged since. */
export const targets: readonly Target[] = [
  qmp,
  journal,
  config,
  domainFile,
  domainSpec,
  launchSpecTarget,
  door,
  peerMessages,
];
