output "vpc_id" {
  description = "The network."
  value       = aws_vpc.this.id
}

output "subnet_ids" {
  description = "Two subnets per tier, one per zone: public, private, data."
  value = {
    for tier in ["public", "private", "data"] :
    tier => [for number in [1, 2] : aws_subnet.this["${tier}-${number}"].id]
  }
}
