/** Makes a fake QEMU answer a command with an error, as QEMU would. */
export class FakeQmpError extends Error {
  readonly errorClass: string;

  constructor(description: string, errorClass = 'GenericError') {
    super(description);
    this.errorClass = errorClass;
  }
}
