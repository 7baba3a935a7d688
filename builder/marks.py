"""Every name under which the factory marks what it makes: tags in EC2, labels in the engine and in images.

The run is the mark by which leftovers are found, the key the one by which finished work is found again.
"""

# EC2 tags.
KEY_TAG = "factory:key"
RUN_TAG = "factory:run"
TARGET_TAG = "factory:target"
STACK_TAG = "factory:stack"
SYSTEM_TAG = "factory:system"
COMMIT_TAG = "factory:commit"
SOURCE_TAG = "factory:source"  # on a copy: the AMI that it is a copy of
IMAGE_TAG = "factory:image"  # on a snapshot that is about to be deleted: its AMI

# Labels of containers and images in the engine.
RUN_LABEL = "factory.run"
KEY_LABEL = "factory.key"
TARGET_LABEL = "factory.target"
STACK_LABEL = "factory.stack"
VERSIONS_LABEL = "factory.versions"
CHECKOUT_LABEL = "factory.checkout"  # whose layer it is, where checkouts share an engine
REHEARSAL_LABEL = "factory.rehearsal"  # the rehearsal that owns a container or an image

# Labels that the OCI image specification names.
TITLE_LABEL = "org.opencontainers.image.title"
DESCRIPTION_LABEL = "org.opencontainers.image.description"
REF_NAME_LABEL = "org.opencontainers.image.ref.name"
VERSION_LABEL = "org.opencontainers.image.version"
