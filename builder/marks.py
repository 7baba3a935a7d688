"""Names of the EC2 tags and of the container and image labels that the factory sets.

Cleanup finds leftovers by the run's name; builds find finished layers and images by their key.
"""

# EC2 tags.
KEY_TAG = "factory:key"
RUN_TAG = "factory:run"
BUILDER_TAG = "factory:builder"  # random ID of the home whose run created the resource
TARGET_TAG = "factory:target"
STACK_TAG = "factory:stack"
SYSTEM_TAG = "factory:system"
COMMIT_TAG = "factory:commit"
CHECKPOINT_TAG = "factory:checkpoint"  # on a complete checkpoint: its key
LAYER_TAG = "factory:layer"  # on a checkpoint: the target and the layer that it was made for
DISK_TAG = "factory:disk"  # on a checkpoint: how its disk is encrypted
SECONDS_TAG = "factory:seconds"  # on a checkpoint: the build time that it saves
SOURCE_TAG = "factory:source"  # on a copied AMI: the id of the original
IMAGE_TAG = "factory:image"  # on a snapshot that is about to be deleted: the id of its AMI
ARCHITECTURE_TAG = "factory:architecture"  # on a CloudFormation stack: the folder of its template

# Labels of containers and images in the engine.
RUN_LABEL = "factory.run"
KEY_LABEL = "factory.key"
TARGET_LABEL = "factory.target"
STACK_LABEL = "factory.stack"
VERSIONS_LABEL = "factory.versions"
PARENT_LABEL = "factory.parent"  # key of the layer below
LOCK_LABEL = "factory.lock"  # checksum of the lock entries of a plan
CHECKOUT_LABEL = "factory.checkout"  # the checkout that built a layer; not set since format 5 of the keys
REHEARSAL_LABEL = "factory.rehearsal"  # the rehearsal that owns a container or image
CLUSTER_LABEL = "factory.cluster"  # the rehearsed cluster that owns a container

# Labels defined by the OCI image specification.
TITLE_LABEL = "org.opencontainers.image.title"
DESCRIPTION_LABEL = "org.opencontainers.image.description"
CREATED_LABEL = "org.opencontainers.image.created"
REF_NAME_LABEL = "org.opencontainers.image.ref.name"
VERSION_LABEL = "org.opencontainers.image.version"
