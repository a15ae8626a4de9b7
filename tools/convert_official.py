"""Convert an official checkpoint to this package's layout, or back, tensors untouched."""

from paca_mm.cli import front

main = front('convert')

if __name__ == '__main__':
    main()
