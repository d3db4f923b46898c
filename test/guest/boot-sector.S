# A guest that is only a boot sector: it starts in a fraction of a second and needs no kernel.
#
# It does without end, for number 1, 2, 3, ...: write one sector with that number to every disk the
# BIOS found (its own included), print an acknowledgement for each on the first serial port, and
# check and rewrite one page of RAM. Works wherever SeaBIOS has a driver: virtio-blk, virtio-scsi,
# ide.
#
# A write counts as durable when the BIOS call returns only if the disk has its write cache off
# (qdev property write-cache=off): then QEMU flushes before it completes the request.
#
# Lines, the same as those of the Linux guest's program (numbers hexadecimal, eight digits):
#   A <disk> <seq>   the sector is durable on that disk; disk 0 is the one the guest started from
#   ERROR            the BIOS refused a write
#   BAD              a page of RAM lost what was written to it
#
# Sector <seq> lives in slot (seq modulo 8192), at byte 32768 + slot * 512 (LBA 64 onward, so a disk
# needs 4.1 MiB): 42 times { "DRV" and the disk number as a byte, seq, ~seq }, then 8 bytes of no
# meaning.
#
# RAM: 96 pages from 128 KiB on, one for each number in turn. Each holds the number that wrote it
# last.

.code16
.set BUFFER, 0x8000
.set SLOT_MASK, 0x1fff
.set PAGES, 96
.set FIRST_SEGMENT, 0x2000

.globl _start
_start:
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movw $0x7c00, %sp
  cld

next_number:
  incl seq
  movl seq, %eax
  andl $SLOT_MASK, %eax
  addl $64, %eax
  movl %eax, packet_lba
  movb $0, disk

next_disk:
  movw $BUFFER, %di
  movw $42, %cx
1:
  movl $0x00565244, %eax          # "DRV", then the disk number in the top byte
  movb disk, %bl
  shll $24, %ebx
  orl %ebx, %eax
  stosl
  movl seq, %eax
  stosl
  notl %eax
  stosl
  loop 1b

  movw $packet, %si
  movb disk, %dl
  orb $0x80, %dl
  movw $0x4300, %ax
  int $0x13
  movw $refused, %si
  jc report

  movw $acknowledged, %si
  call print
  movb disk, %al
  call print_digit
  movb $' ', %al
  call print_char
  movl seq, %ebx
  movw $8, %cx
2:
  roll $4, %ebx
  movb %bl, %al
  call print_digit
  loop 2b
  movb $10, %al
  call print_char

  incb disk
  movb disk, %al
  cmpb 0x475, %al                 # the BIOS data area says how many disks there are
  jb next_disk

  # The page of this number was last written PAGES numbers ago (never, in the first round).
  movl seq, %eax
  xorl %edx, %edx
  movl $PAGES, %ecx
  divl %ecx
  shlw $8, %dx
  addw $FIRST_SEGMENT, %dx
  movw %dx, %es
  movl seq, %eax
  subl %ecx, %eax
  jbe 3f
  xorw %di, %di
  movw $1024, %cx
  repe scasl
  movw $bad_ram, %si
  jne report
3:
  xorw %di, %di
  movw $1024, %cx
  movl seq, %eax
  rep stosl
  movw %cx, %es                   # zero again
  jmp next_number

report:                           # say it once; nothing may go on after that
  call print
6:
  hlt
  jmp 6b

print:                            # the text at si, up to its zero byte
  lodsb
  testb %al, %al
  jz 4f
  call print_char
  jmp print
4:
  ret

print_digit:                      # the low four bits of al
  andb $15, %al
  addb $'0', %al
  cmpb $'9', %al
  jbe print_char
  addb $39, %al
print_char:
  movb %al, %ah
  movw $0x3fd, %dx
5:
  inb %dx, %al
  testb $0x20, %al
  jz 5b
  movw $0x3f8, %dx
  movb %ah, %al
  outb %al, %dx
  ret

acknowledged: .asciz "A "
refused: .asciz "ERROR\n"
bad_ram: .asciz "BAD\n"
.align 4
packet:                           # the BIOS' disk address packet
  .byte 16, 0
  .word 1
  .word BUFFER, 0
packet_lba:
  .quad 0
seq: .long 0
disk: .byte 0
.org 446                          # room for a partition table, which some firmware looks for
.org 510
  .word 0xaa55
