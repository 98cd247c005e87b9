CHOOSER: object
