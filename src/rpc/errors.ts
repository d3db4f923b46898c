import { ReasonedError } from '../util/reasoned-error.js';

/** An error of a call between agents, or between a caller and an agent. */
export class RpcError extends ReasonedError {}
