def scaling(material):
    return None
