"""Predict images with a checkpoint: drawn images and predictions.json in one folder."""

from paca_mm.cli import front

main = front('infer')

if __name__ == '__main__':
    main()
