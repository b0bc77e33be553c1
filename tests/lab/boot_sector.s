# A boot sector that says which sector it read: it resets the machine once, then reads block LBA of the drive it
# was started from by the BIOS (INT 13h, AH=42h), puts its first characters on the serial port and ends the
# program: status 42, or 1 if the BIOS could not read.
#
#   as --32 --defsym LBA=1 boot_sector.s
        .code16
        .set    LOADED, 0x7c00
        .set    BUFFER, 0x8000
        .set    SERIAL, 0x3f8
        .set    DEBUG_EXIT, 0x501
        .set    RESET_CONTROL, 0xcf9
        # A byte of CMOS memory that a reset leaves alone.
        .set    CMOS_INDEX, 0x7e
        .set    WAS_HERE, 0xa5
start:
        ljmp    $0, $(LOADED + main - start)
main:
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $LOADED, %sp
        movb    $CMOS_INDEX, %al
        outb    %al, $0x70
        inb     $0x71, %al
        cmpb    $WAS_HERE, %al
        je      read
        movb    $WAS_HERE, %al
        outb    %al, $0x71
        movw    $RESET_CONTROL, %dx
        movb    $0x06, %al
        outb    %al, %dx
1:      hlt
        jmp     1b
read:
        movw    $(LOADED + packet - start), %si
        movb    $0x42, %ah
        int     $0x13
        movb    $1, %al
        jc      end
        movw    $BUFFER, %si
        movw    $SERIAL, %dx
        # SeaBIOS's own console sends what it owes in its timer's interrupt, into the middle of this.
        cli
2:      lodsb
        testb   %al, %al
        jz      3f
        outb    %al, %dx
        jmp     2b
3:      movb    $42, %al
end:
        movw    $DEBUG_EXIT, %dx
        outb    %al, %dx
4:      hlt
        jmp     4b
packet:
        .byte   16, 0
        .word   1
        .word   BUFFER, 0
        .quad   LBA
        .org    510
        .word   0xaa55
