"""Export a trained model to ONNX or .pt2, checked on the spot; also quantised, with a report."""

from paca_mm.cli import front

main = front('export')

if __name__ == '__main__':
    main()
