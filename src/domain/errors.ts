import { ReasonedError } from '../util/reasoned-error.js';

/** An error of a domain, its disks or its QEMU. */
export class DomainError extends ReasonedError {}
