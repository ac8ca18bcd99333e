output "hosts" {
  description = "Name, instance_id and address (private) of each."
  value = [for host in aws_instance.this : {
    name        = host.tags["Name"]
    instance_id = host.id
    address     = host.private_ip
  }]
}
