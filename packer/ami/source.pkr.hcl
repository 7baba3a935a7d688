# The build instance of the AMI. The builder itself makes later changes to the AMI (IMDSv2, sharing, deprecation,
# copies), because it records them in its journal and does not depend on the version of Packer.
source "amazon-ebs" "image" {
  region                      = var.region
  custom_endpoint_ec2         = var.endpoint
  skip_credential_validation  = var.endpoint != ""
  skip_metadata_api_check     = var.endpoint != ""
  skip_region_validation      = true
  source_ami                  = var.source_ami
  instance_type               = length(var.spot_types) == 0 ? var.instance_type : null
  spot_instance_types         = var.spot_types
  spot_price                  = length(var.spot_types) == 0 ? null : "auto"
  shutdown_behavior           = length(var.spot_types) == 0 ? "terminate" : null
  ebs_optimized               = true
  subnet_id                   = var.network.subnet
  security_group_id           = var.network.security_group
  associate_public_ip_address = var.network.public_address
  iam_instance_profile        = var.network.iam_instance_profile

  ssh_username         = var.ssh.user
  ssh_keypair_name     = var.ssh.keypair
  ssh_private_key_file = var.ssh.key_file
  ssh_port             = var.ssh.port
  ssh_timeout          = var.ssh.timeout
  ssh_interface        = var.ssh.interface

  ami_name        = var.ami_name
  ami_description = var.ami_description
  tags            = var.tags
  snapshot_tags   = var.tags
  run_tags        = merge(var.tags, { Name = "image factory ${var.run}" })
  run_volume_tags = var.tags

  launch_block_device_mappings {
    device_name = var.volume.device
    volume_type = "gp3"
    volume_size = var.volume.size_gib
    iops        = var.volume.iops
    throughput  = var.volume.throughput
    # Encrypted from the start: later encryption copies the image, which leaves a second one in the account.
    encrypted             = var.volume.encrypted ? true : null
    kms_key_id            = var.volume.kms_key
    delete_on_termination = true
  }

  # Current plugins only: current.hcl

  aws_polling {
    delay_seconds = var.polling.delay_s
    max_attempts  = var.polling.attempts
  }
}
